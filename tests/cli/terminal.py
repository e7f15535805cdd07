"""Drives the program in a pseudo terminal, as a user at a keyboard would, and interrupts it. Says what
went wrong and exits 1."""
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time

LUTRA, MODEL = sys.argv[1:3]
PATIENCE = 120  # seconds; a sanitizer build is slow


class Terminal:
    def __init__(self, *args):
        self.text = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(LUTRA, [LUTRA, *args])

    def read(self):
        """Reads what is there; False at the end."""
        ready, _, _ = select.select([self.fd], [], [], 0.05)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data
        return bool(data)

    def wait_for(self, wanted, what):
        """Waits until `wanted` has appeared, forgets all up to it."""
        end = time.time() + PATIENCE
        while wanted not in self.text:
            if time.time() > end or not self.read():
                sys.exit(f"{what}: waited for {wanted!r}, the terminal shows {self.text[-500:]!r}")
        self.text = self.text.split(wanted, 1)[1]

    def wait_for_text(self, n, what):
        end = time.time() + PATIENCE
        while len(self.text) < n:
            if time.time() > end or not self.read():
                sys.exit(f"{what}: waited for {n} bytes, the terminal shows {self.text!r}")

    def type(self, text):
        os.write(self.fd, text)

    def exit_status(self, what):
        end = time.time() + PATIENCE
        while True:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.time() > end:
                os.kill(self.pid, signal.SIGKILL)
                sys.exit(f"{what}: does not end, the terminal shows {self.text[-500:]!r}")


def stops_an_answer():
    t = Terminal("chat", MODEL, "-n", "0", "--cpu", "ref")
    t.wait_for(b"> ", "chat shows a prompt")
    t.type(b"Tell me a long story.\n")
    t.wait_for(b"story.\r\n", "the terminal echoes")
    t.wait_for_text(8, "the answer begins")
    t.type(b"\x03")
    t.wait_for(b"(stopped)", "Ctrl-C stops the answer")
    t.wait_for(b"> ", "chat goes on after it")
    t.type(b"half a line\x03")
    t.wait_for(b"leaves)", "chat explains the first Ctrl-C at the prompt")
    t.wait_for(b"> ", "chat prompts again")
    t.type(b"/help\n")
    t.wait_for(b"/reset", "chat still works")
    t.wait_for(b"> ", "chat prompts again")
    t.type(b"\x03")
    t.wait_for(b"leaves)", "one Ctrl-C does not leave")
    t.type(b"\x03")
    status = t.exit_status("chat leaves on the second Ctrl-C")
    if status != 0:
        sys.exit(f"chat left with status {status}, expected 0")


def leaves_at_end_of_input():
    t = Terminal("chat", MODEL)
    t.wait_for(b"> ", "chat shows a prompt")
    t.type(b"\x04")
    if t.exit_status("chat leaves on Ctrl-D") != 0:
        sys.exit("chat left with a failure on Ctrl-D")


def ends_run_as_the_signal_does():
    t = Terminal("run", MODEL, "-p", "Once", "-n", "0", "--ignore-eos", "--cpu", "ref")
    t.wait_for_text(40, "run writes")
    t.type(b"\x03")
    status = t.exit_status("run ends on Ctrl-C")
    if status != -signal.SIGINT:
        sys.exit(f"run ended with {status}, expected death by SIGINT; the terminal shows {t.text[-300:]!r}")


def folder_bytes(path):
    return {name: open(os.path.join(path, name), "rb").read() for name in sorted(os.listdir(path))}


def quantize_resumes(work):
    """Interrupted at some point, the same command again gives the bytes of an uninterrupted run."""
    def quantize(out):
        return [LUTRA, "quantize", MODEL, os.path.join(work, out), "--format", "int3:g64:asym", "--cpu", "ref", "-t", "1"]

    subprocess.run(quantize("whole"), check=True, capture_output=True)
    interrupted = 0
    for attempt in range(20):
        out = f"cut{attempt}"
        program = subprocess.Popen(quantize(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while program.poll() is None and not os.path.exists(os.path.join(work, out + ".partial")):
            time.sleep(0.0005)
        time.sleep(0.002 * attempt)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate()
        if program.returncode == 0:
            break  # it was done before the signal came: later attempts would be, too
        if program.returncode != -signal.SIGINT or b"the same command goes on from there" not in err:
            sys.exit(f"interrupted quantize: status {program.returncode}, {err!r}")
        interrupted += 1
        again = subprocess.run(quantize(out), capture_output=True)
        if again.returncode != 0:
            sys.exit(f"quantize after an interrupt: status {again.returncode}, {again.stderr!r}")
        if folder_bytes(os.path.join(work, out)) != folder_bytes(os.path.join(work, "whole")):
            sys.exit(f"{out}: an interrupted run gives other bytes")
    if interrupted == 0:
        print("note: quantize was never caught in the middle")


stops_an_answer()
leaves_at_end_of_input()
ends_run_as_the_signal_does()
with tempfile.TemporaryDirectory() as folder:
    quantize_resumes(folder)
