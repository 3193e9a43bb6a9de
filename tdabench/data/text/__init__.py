"""Text: rows of tokens, prompts, tokenizers."""
