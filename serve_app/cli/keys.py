"""``tts-keys``: creates an API key and the entry for it in the keys file.

The key is printed once and not stored; the file has only its hash.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from serve_app.web.api_keys import Key, digest_of, listed_scopes, new_key


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Prints the key to standard error and its entry to standard output, for ``>>`` to a file."""
    arguments = _parser().parse_args(argv)
    key = new_key()
    try:
        line = line_of(
            Key(
                name=arguments.name,
                sha256=digest_of(key),
                scopes=listed_scopes(arguments.scopes),
                per_minute=arguments.per_minute,
                max_sessions=arguments.max_sessions,
            )
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        print(f"tts-keys: {fault['loc'][0]}: {fault['msg']}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"tts-keys: {error}", file=sys.stderr)
        return 1
    print(f"API key (shown only once): {key}", file=sys.stderr)
    print(line)
    return 0


def line_of(key: Key) -> str:
    """The key's entry in the file's YAML list."""
    parts = [f"name: {key.name!r}", f"scopes: [{', '.join(key.scopes)}]"]
    if key.per_minute is not None:
        parts.append(f"per_minute: {key.per_minute:g}")
    if key.max_sessions is not None:
        parts.append(f"max_sessions: {key.max_sessions}")
    if key.lexicon:
        parts.append(f"lexicon: {json.dumps(key.lexicon, ensure_ascii=False)}")
    return f"- {{{', '.join([*parts, f'sha256: {key.sha256!r}'])}}}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tts-keys", description="Create an API key; append the output to the file that access.keys_file names."
    )
    parser.add_argument("name", help="name of the key's owner: letters, digits, . _ -")
    parser.add_argument("--scopes", default="speak", help="speak, voices, or both: speak,voices; default: %(default)s")
    parser.add_argument("--per-minute", type=float, help="utterances and voice changes per minute; default: no limit")
    parser.add_argument("--max-sessions", type=int, help="concurrent sessions and requests; default: no limit")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
