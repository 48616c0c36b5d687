"""Torch on the CPU: steps of training of diffusers' models from scratch, float32.

    python3 tests/bench/peers/torch_training.py [THREADS]

A request's `config` is the model's config.json; the model is made when it is asked for first.
"""

import sys

from serve import answer, serve

try:
    import torch
    import torch.nn.functional as F
    from diffusers import AutoencoderKL, UNet2DConditionModel
except ImportError as error:
    answer({"error": f"{error}; pip install torch diffusers"})
    sys.exit()

if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))

models = {}


def made(kind, r):
    if r["op"] not in models:
        model = kind.from_config(r["config"]).train()
        models[r["op"]] = model, torch.optim.AdamW(model.parameters(), lr=1e-4)
    return models[r["op"]]


def step(model, optimizer, loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def denoiser(r):
    model, optimizer = made(UNet2DConditionModel, r)
    noisy, noise = torch.randn(2, r["batch"], r["channels"], r["size"], r["size"])
    context = torch.randn(r["batch"], r["tokens"], r["config"]["cross_attention_dim"])
    timesteps = torch.randint(0, 1000, (r["batch"],))

    def work():
        step(model, optimizer, F.mse_loss(model(noisy, timesteps, context).sample, noise))

    return work


def autoencoder(r):
    model, optimizer = made(AutoencoderKL, r)
    picture = torch.rand(r["batch"], r["config"]["in_channels"], r["size"], r["size"]) * 2 - 1

    def work():
        posterior = model.encode(picture).latent_dist
        pixel = F.l1_loss(model.decode(posterior.sample()).sample, picture)
        step(model, optimizer, pixel + 1e-6 * posterior.kl().sum() / picture.numel())

    return work


serve(
    {"name": f"torch {torch.__version__}, f32", "threads": torch.get_num_threads()},
    {"denoiser": denoiser, "autoencoder": autoencoder},
)
