"""Put the tested examples into the documents, or with --check say where a document differs from them.

A place is a comment with a file's path, and the code block after it:

    <!-- from: clients/go/example/main.go -->
    ```go
    ```
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"(<!-- from: (\S+) -->\n```\w+\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)


def filled(text: str) -> str:
    """A document with the files as they are."""
    return PLACE.sub(lambda place: place[1] + (ROOT / place[2]).read_text() + place[4], text)


def main(check: bool) -> int:
    """Fill, or check; the exit status."""
    stale = [path for path in (ROOT / "docs").glob("*.md") if filled(path.read_text()) != path.read_text()]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} differs from the examples: run make format")
        else:
            path.write_text(filled(path.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
