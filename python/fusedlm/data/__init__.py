"""Texts, tokenizers and packed token data; loaded on first use."""

from __future__ import annotations

from fusedlm._lazy import lazy

_HOME = {
    "CORPORA": "corpus",
    "load_corpus": "corpus",
    "read_conversations": "conversations",
    "split_by_question": "conversations",
    "Columns": "labelled",
    "Labelled": "labelled",
    "Skipped": "labelled",
    "read_labelled": "labelled",
    "Tagged": "tagged",
    "read_tagged": "tagged",
    "Question": "questions",
    "Questions": "questions",
    "read_questions": "questions",
    "Tokenizer": "tokenizer",
    "train_bpe": "tokenizer",
    "train_chars": "tokenizer",
    "train_words": "tokenizer",
    "PackedData": "packed",
    "PackedWriter": "packed",
    "pack_text": "packed",
    "Batches": "batches",
    "validation_batches": "batches",
    "bigram_loss": "bigram",
    "Parallel": "parallel",
    "clean": "parallel",
    "prepare": "parallel",
    "read_parallel": "parallel",
    "split_by_source": "parallel",
    "TranslationMemory": "translation_memory",
}
__all__ = list(_HOME)
__getattr__ = lazy(__name__, _HOME)
