#!/usr/bin/env python3
"""The baseline that users know: Hugging Face transformers with random bf16 weights in the shape of Llama
3.1 8B, on one GPU; the figures of `bench_decode --device cuda`, measured the same way.

    bench_transformers.py [--layers N] [--context N] [--prompt N] [--tokens N] [--batches 1,4,16,64]

A step is model(ids, past_key_values=...) and argmax, greedy generation's own loop without its
bookkeeping; with --compile the static cache and torch.compile that transformers' documentation
recommends (CUDA graphs through mode="reduce-overhead"). One JSON object a line.
"""
import argparse
import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=32)
parser.add_argument("--context", type=int, default=1024)
parser.add_argument("--prompt", type=int, default=2048)
parser.add_argument("--tokens", type=int, default=24)
parser.add_argument("--batches", default="1,4,16,64")
parser.add_argument("--compile", action="store_true")
args = parser.parse_args()

config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=args.layers,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=128, rope_theta=5e5,
                     max_position_embeddings=8192, tie_word_embeddings=False)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"), torch.no_grad():
    torch.nn.init.normal_ = torch.nn.init.kaiming_uniform_ = lambda t, *a, **k: t  # weights are set below
    model = LlamaForCausalLM(config).eval()
    for p in model.parameters():
        p.uniform_(-0.02, 0.02)


def report(what, batch, context, tokens, seconds):
    print(json.dumps(dict(bench=what, engine="transformers", gpu=torch.cuda.get_device_name(), compiled=args.compile,
                          batch=batch, context=context, tok_s=round(tokens / seconds, 1), us=round(seconds * 1e6, 1),
                          used_gb=round(torch.cuda.max_memory_allocated() / 1e9, 3))), flush=True)


@torch.no_grad()
def prefill():
    ids = torch.randint(0, config.vocab_size, (1, args.prompt), device="cuda")
    best = 1e9
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    report("prefill", 1, args.prompt, args.prompt, best)


@torch.no_grad()
def decode(batch):
    ids = torch.randint(0, config.vocab_size, (batch, args.context), device="cuda")
    cache = None
    if args.compile:
        cache = StaticCache(config=config, max_cache_len=args.context + args.tokens + 8)
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache, step = out.past_key_values, model
    if args.compile:
        step = torch.compile(model, mode="reduce-overhead", fullgraph=False)
    next_ids = out.logits[:, -1:].argmax(-1)
    warm, start = 4, 0.0
    for i in range(args.tokens + warm):
        if i == warm:
            torch.cuda.synchronize()
            start = time.perf_counter()
        position = torch.tensor([args.context + i], device="cuda")
        out = step(next_ids.clone(), past_key_values=cache, cache_position=position, use_cache=True)
        next_ids = out.logits[:, -1:].argmax(-1)
    torch.cuda.synchronize()
    step_seconds = (time.perf_counter() - start) / args.tokens
    report("decode", batch, args.context, batch, step_seconds)


prefill()
for each in args.batches.split(","):
    torch.cuda.reset_peak_memory_stats()
    decode(int(each))
