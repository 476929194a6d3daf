"""A program, run with -I -S by any Python: calls a handler, as Lambda does, from an artifact and the standard library alone."""

import importlib
import json
import sys
import traceback
from pathlib import Path

if __name__ == "__main__":
    artifact, function, *events = sys.argv[1:]
    standard = [place for place in sys.path if place]
    sys.path[:] = [artifact, *standard]
    handler = importlib.import_module(function).handler
    answers: list[object] = []
    for event in events:
        try:
            answers.append(handler(json.loads(event), None))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            traceback.print_exc()
            answers.append({"raised": type(error).__name__, "cause": str(error)})
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    strays = {n: f for n, f in files.items() if f and n != "__main__" and not Path(f).is_relative_to(artifact)
              and not any(Path(f).is_relative_to(place) for place in standard)}  # fmt: skip
    sys.stdout.write(json.dumps({"answers": answers, "strays": strays, "loaded": sorted({n.partition(".")[0] for n in files})}))
