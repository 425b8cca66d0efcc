"""Serve a GGUF with llama.cpp's own OpenAI-compatible HTTP server, on loopback, for a bounded time.

Needs: pip install xllamacpp
Speaks /v1/chat/completions, /v1/completions, /v1/embeddings (with --embed), /v1/responses, /v1/messages,
/v1/models, /tokenize, /metrics, /health. Ready in about two seconds, 35 MB of memory.

Usage: python serve.py MODEL.gguf PORT [--slots 4] [--context 2048] [--seconds 600] [--embed] [--alias tiny-random]

Prints "listening http://HOST:PORT" once it does.
"""

import argparse
import time

import xllamacpp


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--alias", default="tiny-random")
    args = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.context * args.slots
    params.endpoint_metrics = True
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.model_alias = {args.alias}
    if args.embed:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    time.sleep(args.seconds)


if __name__ == "__main__":
    main()
