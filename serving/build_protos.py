"""Generates `serving/v1` from `protos/serving/v1/*.proto`.

`pip install` runs it through `setup.py`; after a change of a .proto file run
`python -m serving.build_protos`. The generated code is not committed.
"""

import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCSTRING = '"""Generated from protos/serving/v1 by serving.build_protos; not committed."""\n'


def build(root: Path = ROOT) -> None:
    """Write messages, stubs and type stubs of every .proto file below `root / "protos"`.

    Raises:
        RuntimeError: A .proto file does not compile; the reason is on standard error.
    """
    # Only the build needs the compiler; the installed package does not.
    from grpc_tools import protoc  # type: ignore[import-untyped]

    sources = sorted(str(path) for path in (root / "protos").rglob("*.proto"))
    target = root / "serving" / "v1"
    target.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        f"-I{root / 'protos'}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"--grpc_python_out={root}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {sources}; its message is above")
    (target / "__init__.py").write_text(DOCSTRING, encoding="utf-8")


if __name__ == "__main__":
    build()
    print(f"wrote {ROOT / 'serving' / 'v1'}", file=sys.stderr)
