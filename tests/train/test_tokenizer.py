"""The small tokenizer: any text survives, known words are short, padding is on the left."""

import pytest
from transformers import AutoTokenizer

from mirasol.train.tokenizer import build_tokenizer

TEXTS = [
    "which color is named?\nwhite",
    "when does the letter begin?\n1.4",
    "what is said?\nbin blue at f two now",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS, vocab_size=331, model_max_length=37)


@pytest.mark.parametrize("text", ["bin blue", "Ünïcode – 日本語 🎬", "tab\there\n", "\x00\x7f", "which  color"])
def test_any_text_survives_byte_by_byte(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token is None


def test_a_known_word_is_one_token_and_an_unknown_one_is_spelled(tokenizer):
    assert len(tokenizer(" blue").input_ids) == 1
    assert len(tokenizer("xylophone").input_ids) > 3


def test_special_tokens_differ_and_do_not_appear_by_themselves(tokenizer):
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert special == [0, 1, 2]
    assert not set(tokenizer(TEXTS[0]).input_ids) & set(special)
    assert len(tokenizer) <= 331


def test_questions_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["what", "what is said?"], padding=True)
    assert batch.input_ids[0][0] == tokenizer.pad_token_id and batch.attention_mask[0][-1] == 1


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    assert build_tokenizer(TEXTS, 331).get_vocab() == tokenizer.get_vocab()


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.model_max_length, loaded.padding_side) == (37, "left")
    assert loaded("what is said?").input_ids == tokenizer("what is said?").input_ids


def test_a_vocabulary_without_room_for_every_byte_is_refused():
    with pytest.raises(ValueError, match="at least 259 tokens.*found vocab_size=258"):
        build_tokenizer(TEXTS, vocab_size=258)
