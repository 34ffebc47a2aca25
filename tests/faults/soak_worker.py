"""The fake worker of a soak: it also takes faults while it runs, from a file beside run.toml.

The file `fault` holds one of nan, oom, crash, inf-gradients; the step that finds it takes it away, notes its attempt in
`taken`, and suffers it.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "daemon"))

import fake_worker
from segwatch.trainer.contract import AttemptSpec, ExitCode


class SoakWorker(fake_worker.FakeWorker):
    def __init__(self, scenario: dict, spec: AttemptSpec, place: Path) -> None:
        super().__init__({**scenario, "faults": {}}, spec)
        self.place = place

    def take_step(self) -> ExitCode | None:
        waiting = self.place / "fault"
        if waiting.exists():
            kind = waiting.read_text()
            waiting.unlink()
            with (self.place / "taken").open("a") as taken:
                taken.write(f"{self.spec.attempt} {kind}\n")
            self.scenario["faults"] = {f"{self.spec.attempt}:{self.step + 1}": kind}
        return super().take_step()


def main() -> int:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGTERM, lambda *_: fake_worker.asked.set())
    scenario = Path(sys.argv[1])
    spec = AttemptSpec.model_validate_json(Path(sys.argv[2]).read_bytes())
    return SoakWorker(json.loads(scenario.read_text()), spec, scenario.parent).run()


if __name__ == "__main__":
    sys.exit(main())
