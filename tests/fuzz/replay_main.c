/* replay_main.c - runs a fuzz target over files, and over the files of folders. Each input gets a
   block of exactly its size, so that a sanitizer sees every read past its end. */
#include <dirent.h>
#include <string.h>

#include "fuzz.h"

static int n_inputs;

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    const long size = ftell(f);
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    rewind(f);
    const int bad = size < 0 || !data || fread(data, 1, (size_t)size, f) != (size_t)size;
    fclose(f);
    if (!bad)
        LLVMFuzzerTestOneInput(data, (size_t)size);
    else
        fprintf(stderr, "%s: cannot be read\n", path);
    free(data);
    n_inputs++;
    return bad;
}

static int run_path(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return run_file(path);
    int bad = 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char file[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        bad |= run_file(file);
    }
    closedir(dir);
    return bad;
}

int main(int argc, char **argv)
{
    int bad = 0;
    for (int i = 1; i < argc; i++)
        bad |= run_path(argv[i]);
    printf("%d inputs\n", n_inputs);
    return bad || n_inputs == 0;
}
