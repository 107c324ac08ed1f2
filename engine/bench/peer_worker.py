"""One engine, one model, one shape, in one process: JSON lines on standard input and output.

Started as a file by the Python of the engine's own environment, which need not have this package: it imports only
NumPy and the engine, and runs on Python 3.8. The argument is a JSON object: engine, model, inputs (an .npz file),
outputs (the .npz file to write), threads, streams (so many runs at a time share the threads). The first line out is
{"load_s", "version"} or {"error"}; each line in is the seconds to run for, and is answered by {"times_s", "ran_s" (how
long a stream ran), "wall_s", "others_s", "peak_mb"}.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, List, Tuple  # noqa: UP035 - evaluated by Python 3.8

Run = Callable[[], List[Any]]  # noqa: UP006 - evaluated by Python 3.8
Loaded = Tuple[List[Run], str]  # noqa: UP006 - evaluated by Python 3.8
"""What each stream runs, and the engine's version."""


def load_sparrow(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """This project's engine."""
    import engine

    model = engine.compile(spec["model"], spec["threads"], spec["streams"])
    wanted = {name: inputs[name] for name in model.input_names}
    return [lambda: list(model.run(wanted).values())] * spec["streams"], ""


def load_onnxruntime(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """ONNX Runtime, a session for each stream, with free shapes: fixed ones cost it fusions of quantized models."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, spec["threads"] // spec["streams"])
    options.log_severity_level = 3

    def load() -> Run:
        session = onnxruntime.InferenceSession(spec["model"], options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, inputs)

    return [load() for _ in range(spec["streams"])], onnxruntime.__version__


def load_openvino(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """OpenVINO with fixed shapes; float32 models at float32, as the others compute them."""
    import openvino

    core = openvino.Core()
    model = core.read_model(spec["model"])
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    hint = "LATENCY" if spec["streams"] == 1 else "THROUGHPUT"
    config = {"INFERENCE_NUM_THREADS": spec["threads"], "NUM_STREAMS": spec["streams"], "PERFORMANCE_HINT": hint}
    config["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(model, "CPU", config)

    def load() -> Run:
        request = compiled.create_infer_request()

        def run() -> list[Any]:
            request.infer(inputs)
            return [request.get_output_tensor(i).data for i in range(len(model.outputs))]

        return run

    return [load() for _ in range(spec["streams"])], openvino.__version__


def load_deepsparse(spec: dict[str, Any], inputs: dict[str, Any]) -> Loaded:
    """DeepSparse 1.8.0, the last with an engine in it; it rewrites the file that it is given, so it gets a copy."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    import deepsparse

    arrays = list(inputs.values())
    options = {}
    if spec["streams"] > 1:
        options = {"num_streams": spec["streams"], "scheduler": deepsparse.Scheduler.multi_stream}
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(spec["model"], folder)
        engine = deepsparse.Engine(
            path,
            batch_size=len(arrays[0]),
            num_cores=spec["threads"],
            input_shapes=[list(a.shape) for a in arrays],
            **options,
        )
    return [lambda: engine.run(arrays)] * spec["streams"], deepsparse.__version__


def busy_s() -> float:
    """Processor seconds of all processes."""
    try:
        counts = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return sum(counts[i] for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def run_times(run: Run, seconds: float) -> list[float]:
    """The times of as many runs as begin within so long, at least one."""
    times: list[float] = []
    begin = start = time.perf_counter()
    while not times or start - begin < seconds:
        run()
        end = time.perf_counter()
        times.append(end - start)
        start = end
    return times


def timed(runs: list[Run], seconds: float) -> dict[str, Any]:
    """Runs all streams for so long."""
    own, busy, begin = time.process_time(), busy_s(), time.perf_counter()
    with ThreadPoolExecutor(len(runs)) as pool:
        streams = list(pool.map(lambda run: run_times(run, seconds), runs))
    others = (busy_s() - busy) - (time.process_time() - own)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall = time.perf_counter() - begin
    times = [each for stream in streams for each in stream]
    ran = sum(times) / len(streams)
    return {"times_s": times, "ran_s": ran, "wall_s": wall, "others_s": max(0.0, others), "peak_mb": peak}


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
        runs, version = globals()["load_" + spec["engine"]](spec, inputs)
        load_s = time.perf_counter() - begin
        np.savez(spec["outputs"], *runs[0]())
    except Exception as error:  # noqa: BLE001 - engines have no common root of errors, and the caller is told
        reply.write(json.dumps({"error": type(error).__name__ + ": " + str(error)}) + "\n")
        return
    reply.write(json.dumps({"load_s": load_s, "version": version}) + "\n")
    for line in sys.stdin:
        reply.write(json.dumps(timed(runs, float(line))) + "\n")


if __name__ == "__main__":
    main()
