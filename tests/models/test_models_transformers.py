"""Text encoders as transformers itself computes with them, their weights from safetensors alone."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from samples import model_config
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from pipeline.config import DataConfig
from pipeline.data import KINDS
from pipeline.errors import ModelError
from pipeline.models import build_classifier, check_model, describe_model, load_backbone
from pipeline.models.export import export_weights
from pipeline.testing import check_backbone

sys.path.append(str(Path(__file__).parents[1] / "data"))
from text_samples import SPECIAL, WORDS, write_tokenizer

SIZE = len(SPECIAL) + len(WORDS)
TEXTS = (["the film is good", "bad", "a very very good play"], ["so bad", "not the film at all", "good"])
BERT = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 12}  # fmt: skip
NETWORKS = {
    "bert": lambda: BertModel(BertConfig(**BERT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**BERT, type_vocab_size=1, pad_token_id=0)),
    "t5": lambda: T5Model(T5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a model and a tokenizer of the words."""

    def made(name="bert"):
        torch.manual_seed(3)
        NETWORKS[name]().save_pretrained(tmp_path / name)
        return write_tokenizer(tmp_path / name)

    return made


def settings(folder, **more):
    return model_config(backbone="transformers", name=str(folder), **{"pretrained": "DEFAULT", **more})


def data_of(folder, **more):
    values = {"source": "text_table", "tokenizer": str(folder), "max_length": 10, "text_pair_column": "other", **more}
    return DataConfig.model_construct(**{"text_column": None, **values})


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_transformers(folder, name, pooling):
    path = folder(name)
    tower = load_backbone(settings(path, pooling=pooling), pretrained=True).tower.eval()
    encode = KINDS["text"].encoder(data_of(path))
    rows = torch.stack([torch.from_numpy(encode(pair)[0]) for pair in zip(*TEXTS, strict=True)])
    tokens = AutoTokenizer.from_pretrained(path)(
        *TEXTS, truncation=True, max_length=10, padding=True, return_tensors="pt"
    )
    if name != "bert":
        del tokens["token_type_ids"]
    theirs = T5EncoderModel.from_pretrained(path) if name == "t5" else AutoModel.from_pretrained(path)
    with torch.inference_mode():
        hidden, mask = theirs.eval()(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        expected = hidden[:, 0] if pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(tower(rows), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_printed_code_computes_the_logits_of_what_was_exported(folder, name, pooling, tmp_path):
    path = folder(name)
    model = build_classifier(settings(path, pooling=pooling), 3).eval()
    description = describe_model(settings(path, pooling=pooling), data_of(path), ("a", "b", "c"))
    code = export_weights(model, description, tmp_path / "out")
    exec(code.replace("['the first text', 'another'], ['a second text', 'another']", repr(TEXTS)[1:-1]), values := {})
    encode = KINDS["text"].encoder(data_of(path))
    rows = torch.stack([torch.from_numpy(encode(pair)[0]) for pair in zip(*TEXTS, strict=True)])
    torch.testing.assert_close(values["logits"], model(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_encoder_keeps_the_contract(folder, name, tmp_path):
    path = folder(name)
    check_model(settings(path), data_of(path))
    check_backbone(settings(path), data_of(path), tmp_path / "checked")


def test_dropout_is_on_in_training_alone(folder):
    model = build_classifier(settings(folder()), 2)
    row = torch.ones(1, 6, dtype=torch.int32)
    assert not torch.equal(model.train()(row), model(row))
    assert torch.equal(model.eval()(row), model(row))


def test_no_weight_is_without_use(folder):
    model = build_classifier(settings(folder()), 2)
    model(torch.ones(2, 6, dtype=torch.int32)).sum().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]


def test_pooling_is_read_from_the_folder(folder):
    path = folder()
    assert load_backbone(settings(path), pretrained=False).architecture["pooling"] == "cls"
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert load_backbone(settings(path), pretrained=False).architecture["pooling"] == "mean"


def test_pooling_is_read_of_a_name_too(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--team--encoder" / "snapshots" / ("0" * 40)
    folder().rename(snapshot.parent.mkdir(parents=True) or snapshot)
    (tmp_path / "hub" / "models--team--encoder" / "refs").mkdir()
    (tmp_path / "hub" / "models--team--encoder" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_backbone(settings("team/encoder"), pretrained=True).architecture["pooling"] == "cls"
    (snapshot / "1_Pooling").mkdir()
    (snapshot / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert load_backbone(settings("team/encoder"), pretrained=True).architecture["pooling"] == "mean"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"pooling_mode_cls_token": false, "pooling_mode_max_tokens": true}', "pooling_mode_max_tokens"),
        ('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}', "pooling_mode_mean_tokens and pooling_"),
        ("[]", "no pooling"),
        ("{", "no pooling"),
    ],
)
def test_a_pooling_that_is_none_of_ours_is_refused_unless_one_is_set(folder, content, said):
    path = folder()
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(content)
    refused(settings(path), data_of(path), f"model.pooling: 1_Pooling/config.json of {path} names {said}")
    check_model(settings(path, pooling="mean"), data_of(path))


def refused(model, data, message):
    with pytest.raises(ModelError, match=f"^{re.escape(message)}") as caught:
        check_model(model, data)
    assert len(str(caught.value).splitlines()) == 1


def test_what_does_not_fit_is_refused_in_a_line(folder, tmp_path):
    path = folder()
    other = write_tokenizer(tmp_path / "other", [*WORDS, "more"])
    size = SIZE + 1
    refused(settings(path), data_of(other), f"data.tokenizer: its {size} tokens do not fit the vocabulary of the model")
    refused(settings(path), data_of(path, max_length=13), "data.max_length: the model takes no texts of 13 tokens (")
    theirs = folder("roberta")  # it does not count the places of its padding, which has the id 0
    check_model(settings(theirs), data_of(path, max_length=11))
    refused(settings(theirs), data_of(path, max_length=12), "data.max_length: the model takes no texts of 12 tokens (")
    gaps = json.loads((other / "tokenizer.json").read_text())
    gaps["model"]["vocab"]["more"] = 1000
    del gaps["model"]["vocab"]["a"]
    (other / "tokenizer.json").write_text(json.dumps(gaps))
    refused(settings(path), data_of(other), "data.tokenizer: its 1001 tokens do not fit the vocabulary of the model (")
    refused(settings(path, pretrained="tag"), data_of(path), "model.pretrained: 'tag' is none of a model of ")
    refused(settings("/no/such"), data_of(path), "model.name: /no/such is no folder; ")
    refused(
        settings(path),
        DataConfig.model_construct(source="digits", image_size=8),
        "model.backbone: 'transformers' takes texts",
    )
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    refused(settings(path), data_of(path), f"model.name: {path} has no .safetensors file, and files of other kinds may")
    check_model(settings(path, pretrained=None), data_of(path))
