"""`python -m handbook`: updates the generated parts of the documentation."""

from __future__ import annotations

from handbook.made import HOME, made

__all__ = ["main"]


def main() -> None:
    """Write each file that is out of date, and print its name."""
    for path, text in made().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"written: {path.relative_to(HOME)}")


if __name__ == "__main__":
    main()
