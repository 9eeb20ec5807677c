"""Where the steps of a run lie."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Directories below the one given by `--out`."""

    root: Path

    @property
    def prepared(self) -> Path:
        """Shards, vocabularies, catalogue."""
        return self.root / "prepared"

    @property
    def candidates(self) -> Path:
        """The trained candidate net as vectors and ONNX."""
        return self.root / "candidates"

    @property
    def index(self) -> Path:
        """The index over the item vectors."""
        return self.root / "index"

    @property
    def ranking(self) -> Path:
        """The trained ranking net."""
        return self.root / "ranking"

    @property
    def exploration(self) -> Path:
        """The trained neural process."""
        return self.root / "exploration"

    @property
    def bundle(self) -> Path:
        """What a server needs."""
        return self.root / "bundle"

    @property
    def state(self) -> Path:
        """Users' states as of the bundle's data_until."""
        return self.root / "state"

    @property
    def evaluation(self) -> Path:
        """Test metrics."""
        return self.root / "evaluation"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"
