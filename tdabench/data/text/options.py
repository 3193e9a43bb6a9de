"""How documents become rows of tokens: the options that every source of text has."""

from typing import Annotated

from pydantic import Field

from tdabench.experiment.settings import Count, Share, settings

# The first token has none before it; and the memory that a row would take is reserved before it is filled.
Length = Annotated[int, Field(ge=2, le=2**17)]


@settings("data.options")
class Rows:
    """How documents become rows of tokens; the options that every source of text has.

    Documents are divided into rows of ``length`` tokens, none of which holds two documents. They come in an order that
    depends on their text alone (its hash): the first ``pretraining`` of them, by tokens, are for pretraining; of the
    rows of the others, every ``test_every``-th is for queries.

    Attributes:
        length: Tokens of a row.
        shortest: What is left at a document's end is a row of its own, padded, if it has so many tokens; ``null``
            leaves it out.
        tokenizer: A folder in the data root, or a name on the Hugging Face hub; ``null`` trains one on the text.
        tokenizer_revision: Of one from the hub.
        vocabulary: Tokens of one that is trained here (byte-level BPE).
        begin: Text of a token that begins every document, such as ``<s>``; ``null`` for none.
        pretraining: Share of the text that is for pretraining, in [0, 1).
        test_every: Which of the rows are for queries, if the source has no text for them alone.
        prompts: JSON file of prompt-completion queries in the data root (see ``read_prompts``), whose completions alone
            count: they are the queries, and no row is set aside.
        prompt_length: Tokens of those rows; of a longer query the beginning is left out. ``null``: of the longest.
        most_documents: Use no more documents than these first ones in the order by hash; ``null`` for all.
    """

    length: Length = 64
    shortest: Annotated[int, Field(ge=2)] | None = None
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    vocabulary: Annotated[int, Field(ge=257, le=2**20)] = 1024  # above the 256 bytes
    begin: str | None = None
    pretraining: Share = 0.0
    test_every: Annotated[int, Field(ge=2)] = 4
    prompts: str | None = None
    prompt_length: Length | None = None
    most_documents: Count | None = None

    def __post_init__(self) -> None:
        if self.shortest is not None and self.shortest > self.length:
            raise ValueError(f"data.options.shortest must lie in 2 to length ({self.length}), got {self.shortest}.")
        if self.prompt_length is not None and self.prompts is None:
            raise ValueError(f"data.options.prompt_length is of prompts, and there are none; got {self.prompt_length}.")
