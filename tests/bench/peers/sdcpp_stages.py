"""stable-diffusion.cpp through its PyPI binding (stable-diffusion-cpp-python), on the CPU: the stages of one picture.

    python3 tests/bench/peers/sdcpp_stages.py CHECKPOINT [THREADS [NAME]]

The binding makes whole pictures only, so the stages' seconds are those that the library's own log tells. It ships without
tinyBLAS; CMAKE_ARGS="-DGGML_LLAMAFILE=ON" pip install stable-diffusion-cpp-python builds it in.
"""

import ctypes
import re
import sys
import time

from serve import answer, serve

try:
    import stable_diffusion_cpp as sd
except ImportError as error:
    answer({"error": f"{error}; pip install stable-diffusion-cpp-python"})
    sys.exit()

checkpoint = sys.argv[1]
threads = int(sys.argv[2]) if len(sys.argv) > 2 else -1
label = sys.argv[3] if len(sys.argv) > 3 else "sd.cpp"
lines = []


@sd.sd_log_callback
def keep(_level, text, _data):
    lines.append(text.decode("utf-8", "replace"))


sd.sd_set_log_callback(keep, ctypes.c_void_p(0))
start = time.perf_counter()
model = sd.StableDiffusion(model_path=checkpoint, n_threads=threads, rng_type="cpu", verbose=False)
seconds = time.perf_counter() - start
sd.sd_set_log_callback(keep, ctypes.c_void_p(0))
SAYS = {
    "clip": r"get_learned_condition completed, taking ([\d.]+)s",
    "sampling": r"sampling completed, taking ([\d.]+)s",
    "vae": r"decode_first_stage completed, taking ([\d.]+)s",
}


def picture(r):
    def work():
        lines.clear()
        model.generate_image(
            prompt=r["prompt"], width=r["width"] * 8, height=r["height"] * 8, cfg_scale=r["cfg"],
            sample_steps=r["steps"], sample_method="euler", seed=7,
        )
        said = "".join(lines)
        parts = {name: re.search(pattern, said) for name, pattern in SAYS.items()}
        return {"parts": {name: float(found[1]) for name, found in parts.items() if found}}

    return work


serve(
    {"name": f"{label} (binding {sd.__version__})", "threads": threads, "load": seconds, "whole": True},
    {"picture": picture},
)
