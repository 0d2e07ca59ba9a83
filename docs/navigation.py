"""The site's navigation: the sections of ``index.md``, with the pages that each of them links first in its lines.

A hook of the site's builder (``properdocs.yml``); it knows nothing but Markdown's headings and lists.
"""

import re
from pathlib import Path
from typing import Any

Navigation = list[dict[str, Any]]


def navigation(index: str) -> Navigation:
    """What the builder takes as ``nav``: a section of the index is a menu, a line of its list an entry."""
    menus: Navigation = [{"Home": "index.md"}]
    for section in index.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        pages = re.findall(r"^- \[(.+?)\]\((?!https?:)([^)#]+\.md)\)", text, re.MULTILINE)
        if pages:
            menus.append({title.strip(): [{name: page} for name, page in pages]})
    return menus


def on_config(config: Any) -> Any:  # noqa: ANN401 the builder's own type, which no other code here imports
    """Called by the builder with its configuration, once."""
    config["nav"] = navigation((Path(config["docs_dir"]) / "index.md").read_text())
    return config
