"""diffusers on torch's CPU backend, float32: the stages of a Stable Diffusion checkpoint, one at a time.

    python3 tests/bench/peers/diffusers_stages.py CHECKPOINT CONFIGS [THREADS]

CHECKPOINT is a diffusers folder, or a single file with the original names; CONFIGS holds a file's configs, as
fixtures/configs/sd15.json does. Arrays come and go as raw float32 (token ids int32) in files of the folder that a request
names.
"""

import json
import os
import sys
import time

from serve import answer, serve

try:
    import numpy as np
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers import __version__ as diffusers_version
    from diffusers.loaders import single_file_utils as single
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel
except ImportError as error:
    answer({"error": f"{error}; pip install torch diffusers transformers safetensors"})
    sys.exit()

checkpoint, configs = sys.argv[1:3]
if len(sys.argv) > 3:
    torch.set_num_threads(int(sys.argv[3]))
torch.set_grad_enabled(False)


def from_folder(path):
    text = CLIPTextModel.from_pretrained(f"{path}/text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(f"{path}/unet", torch_dtype=torch.float32)
    return text, unet, AutoencoderKL.from_pretrained(f"{path}/vae", torch_dtype=torch.float32)


def from_file(path):
    config = json.load(open(configs))
    weights = load_file(path)

    def loaded(model, convert, prefix):
        part = {k: v.float() for k, v in weights.items() if k.startswith(prefix)}
        model.load_state_dict(convert(part), strict=False)
        return model

    text_config = CLIPTextConfig(**{k: v for k, v in config["text_encoder"].items() if not k.startswith("_")})
    text = CLIPTextModel(text_config)
    prefix = "cond_stage_model.transformer."
    named = text.state_dict().keys()
    loaded(text, lambda part: {
        name: part[prefix + ("" if "text_model." in name else "text_model.") + name]
        for name in named if "position_ids" not in name
    }, prefix)
    unet = UNet2DConditionModel.from_config(config["unet"])
    loaded(unet, lambda part: single.convert_ldm_unet_checkpoint(part, config["unet"]), "model.diffusion_model.")
    vae = AutoencoderKL.from_config(config["vae"])
    loaded(vae, lambda part: single.convert_ldm_vae_checkpoint(part, config["vae"]), "first_stage_model.")
    return text, unet, vae


start = time.perf_counter()
text, unet, vae = (from_folder if os.path.isdir(checkpoint) else from_file)(checkpoint)
for model in (text, unet, vae):
    model.eval()
seconds = time.perf_counter() - start


def read(request, name, shape, dtype="float32"):
    return torch.from_numpy(np.fromfile(f"{request['folder']}/{name}", dtype).reshape(shape))


def save(request, name, tensor):
    tensor.float().contiguous().numpy().tofile(f"{request['folder']}/{name}")


def clip(r):
    ids = read(r, "ids", (1, -1), "int32").long()

    def work():
        save(r, "clip.peer", text(ids).last_hidden_state)

    return work


def denoise(r):
    sample = read(r, "sample", (1, -1, r["height"], r["width"])).repeat(r["batch"], 1, 1, 1)
    context = read(r, "context", (1, -1, unet.config.cross_attention_dim)).repeat(r["batch"], 1, 1)

    def work():
        save(r, "unet.peer", unet(sample, 500.0, context).sample[:1])

    return work


def decode(r):
    latents = read(r, "sample", (1, -1, r["height"], r["width"])) / vae.config.scaling_factor

    def work():
        save(r, "vae.peer", vae.decode(latents).sample.permute(0, 2, 3, 1) / 2 + 0.5)

    return work


def picture(r):
    ids = read(r, "ids", (1, -1), "int32").long()
    noise = read(r, "sample", (1, -1, r["height"], r["width"]))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )

    def work():
        context = text(ids.repeat(2, 1)).last_hidden_state
        scheduler.set_timesteps(r["steps"])
        x = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            model_in = scheduler.scale_model_input(x, t).repeat(2, 1, 1, 1)
            uncond, cond = unet(model_in, t, context).sample.chunk(2)
            x = scheduler.step(uncond + r["cfg"] * (cond - uncond), t, x).prev_sample
        vae.decode(x / vae.config.scaling_factor)

    return work


serve(
    {
        "name": f"diffusers {diffusers_version} on torch {torch.__version__}, f32",
        "threads": torch.get_num_threads(),
        "load": seconds,
    },
    {"clip": clip, "unet": denoise, "vae": decode, "picture": picture},
)
