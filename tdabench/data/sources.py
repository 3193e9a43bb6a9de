"""Sources of text: files, WikiText-2, Python's own documentation, and datasets of the Hugging Face hub."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tdabench.data.text.options import Rows
from tdabench.data.text.rows import TextData, make_text
from tdabench.experiment.settings import Count, settings


@settings("data.options")
class TextFiles(Rows):
    """Text files in UTF-8.

    Attributes:
        files: Paths, relative to the data root.
        separator: Regular expression between the documents of a file; ``null`` makes each file one document.
        test_files: Files for the queries; ``null`` sets rows of the others aside.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    separator: str | None = None
    test_files: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            groups = 0 if self.separator is None else re.compile(self.separator).groups
        except re.error as error:
            raise ValueError(
                f"data.options.separator is no regular expression ({error}), got {self.separator!r}."
            ) from error
        if groups:  # they would become documents
            raise ValueError(f"data.options.separator may have no groups but (?:...), got {self.separator!r}.")

    def load(self, root: Path) -> TextData:
        """Read and tokenise the files.

        Raises:
            FileNotFoundError: If a file or the tokenizer is missing.
            ValueError: If a file is empty or not UTF-8, or the text is too short.
        """
        parts = [
            None if files is None else [document for file in files for document in self._documents(Path(root) / file)]
            for files in (self.files, self.test_files)
        ]
        return make_text(parts[0], self, root=root, test=parts[1])

    def _documents(self, path: Path) -> list[str]:
        text = read_text(path)
        return [text] if self.separator is None else [part for part in re.split(self.separator, text) if part.strip()]


@settings("data.options")
class WikiText2(Rows):
    """WikiText-2 (Merity et al., 2016): the articles of ``root/wikitext-2/train.txt``, one document each."""

    def load(self, root: Path) -> TextData:
        """Read and tokenise the articles.

        Raises:
            FileNotFoundError: If the file or the tokenizer is missing.
            ValueError: If the file is not UTF-8, has no article, or the text is too short.
        """
        path = Path(root) / "wikitext-2" / "train.txt"
        # A title stands between single equals signs; headings within an article have two or more.
        articles = re.split(r"^(?= = [^=\n]+ = $)", read_text(path), flags=re.MULTILINE)
        articles = [article for article in articles if article.lstrip().startswith("= ")]
        if not articles:
            raise ValueError(f"{path} has no article: none of its lines reads ' = Title = '.")
        return make_text(articles, self, root=root)


@settings("data.options")
class PythonTopics(Rows):
    """The language reference that Python carries for ``help()`` (79 topics, 0.5 MB): nothing is downloaded."""

    def load(self, root: Path) -> TextData:
        """Tokenise the topics of ``pydoc_data``; nothing but a tokenizer is read from the data root."""
        from pydoc_data.topics import topics

        return make_text(list(topics.values()), self, root=root)


@settings("data.options")
class HubText(Rows):
    """A text dataset of the Hugging Face hub, such as the Pile, by the library datasets.

    Attributes:
        dataset: Its name, such as ``NeelNanda/pile-10k``.
        configuration: Which of its configurations; ``null`` for the only one.
        part: Its split.
        field: Column with the text.
        revision: Commit or tag.
        documents: How many from the first on: the dataset is streamed, so no more are downloaded.
    """

    dataset: str
    configuration: str | None = None
    part: str = "train"
    field: str = "text"
    revision: str | None = None
    documents: Count = 10_000

    def load(self, root: Path) -> TextData:
        """Stream and tokenise the documents.

        Raises:
            ImportError: If the library datasets is not installed.
            FileNotFoundError: If the dataset is not in the cache and the hub can't be reached.
            ValueError: If there is no such column.
        """
        return make_text(self._read(), self, root=root)

    def _read(self) -> list[str]:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError("A dataset of the hub needs the library datasets: pip install datasets.") from error
        options = {"split": self.part, "revision": self.revision, "streaming": True}
        try:
            rows = load_dataset(self.dataset, self.configuration, **options).take(self.documents)
            rows = list(rows)
        except (OSError, ConnectionError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"The dataset {self.dataset} could not be had from the hub ({type(error).__name__}: {error}). "
                "Without a connection, use text files: tdabench.data.sources:TextFiles."
            ) from error
        if rows and self.field not in rows[0]:
            raise ValueError(f"{self.dataset} has no column {self.field!r}; it has {', '.join(rows[0])}.")
        return [row[self.field] for row in rows if row[self.field]]


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is empty, or not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no text file {path}: name its folder with --data or TDABENCH_DATA.")
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"The text file {path} is empty.")
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start:,} is {content[error.start]:#04x}. "
            f"Convert it: iconv -f latin1 -t utf-8."
        ) from error
