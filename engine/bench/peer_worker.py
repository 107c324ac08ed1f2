"""One engine, one model, one shape, in one process: JSON lines on standard input and output.

Started as a file by the Python of the engine's own environment, which need not have this package: it imports only
NumPy and the engine, and runs on Python 3.8. The argument is a JSON object: engine, model, inputs (an .npz file),
outputs (the .npz file to write), threads. The first line out is {"load_s", "version"} or {"error"}; each line in is
the seconds to run for, and is answered by {"times_s", "wall_s", "others_s", "peak_mb"}.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple  # noqa: UP035 - evaluated by Python 3.8

Loaded = Tuple[Callable[[], List[Any]], str]  # noqa: UP006 - evaluated by Python 3.8
"""Something to run, and the engine's version."""


def load_sparrow(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """This project's engine."""
    import engine

    model = engine.compile(spec["model"], spec["threads"])
    return (lambda: list(model.run({name: inputs[name] for name in model.input_names}).values())), ""


def load_onnxruntime(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """ONNX Runtime, with free shapes: fixed ones cost it fusions of quantized models."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
    return (lambda: session.run(None, inputs)), onnxruntime.__version__


def load_openvino(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """OpenVINO with fixed shapes; float32 models at float32, as the others compute them."""
    import openvino

    core = openvino.Core()
    model = core.read_model(spec["model"])
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    config = {"INFERENCE_NUM_THREADS": spec["threads"], "PERFORMANCE_HINT": "LATENCY"}
    config["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", config).create_infer_request()

    def run() -> list[Any]:
        request.infer(inputs)
        return [request.get_output_tensor(i).data for i in range(len(model.outputs))]

    return run, openvino.__version__


def load_deepsparse(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """DeepSparse 1.8.0, the last with an engine in it; it rewrites the file that it is given, so it gets a copy."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    import deepsparse

    arrays = list(inputs.values())
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(spec["model"], folder)
        engine = deepsparse.Engine(
            path,
            batch_size=len(arrays[0]),
            num_cores=spec["threads"],
            input_shapes=[list(a.shape) for a in arrays],
        )
    return (lambda: engine.run(arrays)), deepsparse.__version__


def busy_s() -> float:
    """Processor seconds of all processes."""
    try:
        counts = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return sum(counts[i] for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Runs for so long, at least once."""
    times: list[float] = []
    own, busy, begin = time.process_time(), busy_s(), time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    others = (busy_s() - busy) - (time.process_time() - own)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall = time.perf_counter() - begin
    return {"times_s": times, "wall_s": wall, "others_s": max(0.0, others), "peak_mb": peak}


def main() -> None:
    """Serves until standard input ends."""
    import numpy as np

    spec = json.loads(sys.argv[1])
    reply = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an engine prints goes to standard error
    with np.load(spec["inputs"]) as saved:
        inputs = {name: saved[name] for name in saved.files}
    begin = time.perf_counter()
    try:
        run, version = globals()["load_" + spec["engine"]](spec, inputs)
        load_s = time.perf_counter() - begin
        np.savez(spec["outputs"], *run())
    except Exception as error:  # noqa: BLE001 - engines have no common root of errors, and the caller is told
        reply.write(json.dumps({"error": type(error).__name__ + ": " + str(error)}) + "\n")
        return
    reply.write(json.dumps({"load_s": load_s, "version": version}) + "\n")
    for line in sys.stdin:
        reply.write(json.dumps(timed(run, float(line))) + "\n")


if __name__ == "__main__":
    main()
