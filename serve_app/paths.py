"""Where a relative path of the configuration leads; nothing else of the configuration is known here."""

from pathlib import Path

import serve_app


def found(path: str, working_directory: Path) -> Path:
    """Below the working directory, else beside the package; links stay as they are, since they may be changed later."""
    candidates = [working_directory / path, Path(serve_app.__file__).parent.parent / path]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0]).absolute()
