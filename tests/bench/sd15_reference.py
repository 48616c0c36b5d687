"""Torch's answer for a full-size SD 1.5 checkpoint with original key names, to be compared by tests/bench/sd15.ts.

    python3 tests/bench/sd15_reference.py CHECKPOINT CONFIG_FOLDER OUT.safetensors [SIZE ...]

CONFIG_FOLDER holds unet/config.json of Stable Diffusion 1.5 in diffusers' form. For each latent size (64 and 16 where none
is given) it writes the inputs and the UNet's prediction, float32, and prints the seconds a forward pass took.
"""

import json
import sys
import time

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file

checkpoint, configs, out, *sizes = sys.argv[1:]
config = json.load(open(f"{configs}/unet/config.json"))
weights = {k: v.float() for k, v in load_file(checkpoint).items() if k.startswith("model.diffusion_model.")}
unet = UNet2DConditionModel.from_config(config).eval()
unet.load_state_dict(convert_ldm_unet_checkpoint(weights, config))
del weights

tensors = {}
for size in [int(s) for s in sizes] or [64, 16]:
    generator = torch.Generator().manual_seed(size)
    sample = torch.randn(1, 4, size, size, generator=generator)
    context = torch.randn(1, 77, 768, generator=generator)
    start = time.perf_counter()
    with torch.no_grad():
        prediction = unet(sample, 500.0, context).sample
    print(f"{size}x{size}: {time.perf_counter() - start:.1f} s, std {prediction.std():.4f}")
    tensors |= {f"sample.{size}": sample, f"context.{size}": context, f"prediction.{size}": prediction}
save_file(tensors, out, metadata={"timestep": "500", "torch": torch.__version__})
