"""A Whisper model in CTranslate2's format, made on the spot: it says one script, whatever it hears.

Its weights are random and small, but for two: each position of the decoder stands in a dimension of its own, and from
there the projection prefers one token. So what it says depends on the position alone: a time, the words, a time, the
end. A prompt moves the positions, and with them the script; the language that it takes everything for is German.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

np: Any = import_module("numpy")

SCRIPT = ["<|0.00|>", " Oh", " dear", ",", " I", " shall", " be", " late", "!", "<|2.00|>"]
_TIMES = 1_501
_SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip


def write_whisper(
    folder: Path, *, multilingual: bool = True, width: int = 64, heads: int = 2, layers: int = 2, fill: int = 0
) -> Path:
    """Write the model with its tokenizer.

    Args:
        folder: where; it is made.
        multilingual: whether it knows English and German, or English alone.
        width: of its layers. Whisper's tiny has 384, 6 heads and 4 layers.
        heads: of attention.
        layers: of the encoder, and of the decoder.
        fill: how many tokens it has besides that nothing uses.
    """
    tokenizers: Any = import_module("tokenizers")
    specs: Any = import_module("ctranslate2.specs.whisper_spec")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [word.replace(" ", "\u0120") for word in SCRIPT[1:-1] if len(word) > 1]
    # CTranslate2 takes a model for a multilingual one by its empty token.
    text = [*letters, *words, *([""] if multilingual else []), *(f"\u0120x{number}" for number in range(fill))]
    tokens = [*text, *_SPECIAL, *(f"<|{number * 0.02:.2f}|>" for number in range(_TIMES))]
    ids = {token: number for number, token in enumerate(tokens)}

    spec = specs.WhisperSpec(layers, heads, layers, heads)
    random = np.random.default_rng(1)
    _fill(spec.encoder, random, width)
    _fill(spec.decoder, random, width)
    weight = random.normal
    spec.encoder.conv1.weight = weight(0, 0.01, (width, 80, 3)).astype(np.float32)
    spec.encoder.conv2.weight = weight(0, 0.01, (width, width, 3)).astype(np.float32)
    heard = np.zeros((1500, width), np.float32)
    for frame in range(
        1500
    ):  # of 0.02 s; each ten are one token of the script to the attention that words' times are from
        heard[frame, min(frame // 10 + 1, width - 1)] = 10.0
    spec.encoder.position_encodings.encodings = heard
    looks = spec.decoder.layer[-1].attention.linear
    looks[0].weight = np.eye(width, dtype=np.float32)
    looks[1].weight = np.concatenate([np.eye(width), np.zeros((width, width))]).astype(np.float32)
    spec.decoder.embeddings.weight = weight(0, 0.001, (len(tokens), width)).astype(np.float32)
    positions = np.zeros((448, width), np.float32)
    projection = weight(0, 0.001, (len(tokens), width)).astype(np.float32)
    first = 2 if multilingual else 0  # the last position of what the decoder is given to begin with
    script = [ids[token.replace(" ", "\u0120")] for token in SCRIPT]
    end = first + len(script)
    for position in range(448):
        positions[position, min(position, end)] = 10.0
    for position, token in enumerate([*script, ids["<|endoftext|>"]], start=first):
        projection[token, position] += 4.0
    if multilingual:
        projection[ids["<|de|>"], 0] += 6.0
    spec.decoder.position_encodings.encodings = positions
    spec.decoder.projection.weight = projection
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = [ids["<|en|>"], ids["<|de|>"]]
    spec.config.alignment_heads = [[layers - 1, 0]]
    spec.validate()
    spec.optimize("float16")
    folder.mkdir(parents=True)
    spec.save(str(folder))

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={each: ids[each] for each in text}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[len(text) :])
    assert tokenizer.token_to_id("<|nospeech|>") == ids["<|nospeech|>"]
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80}))
    return folder


def _fill(spec: Any, random: Any, width: int) -> None:
    """Small random weights for every layer, and norms that leave things as they are."""

    def linear(layer: Any, rows: int, columns: int) -> None:
        layer.weight = random.normal(0, 0.001, (rows, columns)).astype(np.float32)
        layer.bias = np.zeros(rows, np.float32)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    norm(spec.layer_norm)
    for layer in spec.layer:
        attentions = [layer.self_attention, *([layer.attention] if hasattr(layer, "attention") else [])]
        for attention in attentions:
            norm(attention.layer_norm)
            rows = [3 * width, width] if len(attention.linear) == 2 else [width, 2 * width, width]
            for each, count in zip(attention.linear, rows, strict=True):
                linear(each, count, width)
        norm(layer.ffn.layer_norm)
        linear(layer.ffn.linear_0, 4 * width, width)
        linear(layer.ffn.linear_1, width, 4 * width)
