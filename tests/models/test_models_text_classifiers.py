"""Classifiers of transformers as backbone and head: the same logits, there and back, and what folders say of them."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from samples import model_config

from pipeline.config import DataConfig
from pipeline.data import KINDS
from pipeline.errors import ModelError
from pipeline.models import build_classifier, check_model, describe_model, load_backbone, read_own
from pipeline.models.export import export_program, export_weights
from pipeline.testing import check_backbone
from pipeline.weights import load_weights

sys.path.append(str(Path(__file__).parents[1] / "data"))
from text_samples import SPECIAL, WORDS, write_tokenizer

SIZE = len(SPECIAL) + len(WORDS)
NAMES = ("negative", "neutral", "positive")
SIZES = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 12, "pad_token_id": 0}  # fmt: skip
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SIZES),
    "roberta": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=SIZE, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=12
    ),
    "electra": lambda: transformers.ElectraConfig(**SIZES, embedding_size=8),
    "deberta-v2": lambda: transformers.DebertaV2Config(**SIZES, relative_attention=True, position_buckets=4),
    "llama": lambda: transformers.LlamaConfig(**SIZES),  # its last layer has no bias
}
TEXTS = (["the film is good", "bad", "a very very good play"], ["so bad", "not the film at all", "good"])


@pytest.fixture
def saved(tmp_path):
    """A folder with a classifier of random weights and the tokenizer of the words."""

    def made(name="bert", names=NAMES, folder=None, **changes):
        torch.manual_seed(3)
        config = CONFIGS[name]()
        config.update(changes)
        config.id2label, config.label2id = dict(enumerate(names)), {one: label for label, one in enumerate(names)}
        network = transformers.AutoModelForSequenceClassification.from_config(config)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        folder = tmp_path / (folder or name)
        network.save_pretrained(folder)
        return write_tokenizer(folder)

    return made


def settings(folder, **more):
    return model_config(backbone="transformers", name=str(folder), **more)


def data_of(folder, **more):
    values = {"source": "text_table", "tokenizer": str(folder), "max_length": 10, "text_pair_column": "other", **more}
    return DataConfig.model_construct(**{"text_column": None, **values})


def description_of(folder, **more):
    return describe_model(settings(folder, **more), data_of(folder), NAMES)


def rows_of(folder):
    encode = KINDS["text"].encoder(data_of(folder))
    return torch.stack([torch.from_numpy(encode(pair)[0]) for pair in zip(*TEXTS, strict=True)])


def logits_of_transformers(folder):
    """Model and tokenizer of the folder, called as their documentation has it."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        *TEXTS, truncation=True, max_length=10, padding=True, return_tensors="pt"
    )
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if getattr(network.config, "type_vocab_size", 0) < 2:  # of which the tokenizer of the words knows nothing
        del tokens["token_type_ids"]
    with torch.inference_mode():
        return network(**tokens).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_its_logits_are_those_of_transformers(saved, name, tmp_path):
    folder = saved(name)
    description = description_of(folder)
    assert (description.architecture["pooling"], description.class_names) == ("classifier", list(NAMES))
    model = build_classifier(settings(folder), len(NAMES)).eval()
    checkpoint, state = read_own(folder, "auto", description)
    assert json.loads(checkpoint.metadata["class_names"]) == list(NAMES)
    load_weights(model, state, source="it")
    with torch.inference_mode():
        ours = model(rows_of(folder))
    torch.testing.assert_close(ours, logits_of_transformers(folder), atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.01

    code = export_weights(model, description, tmp_path / "out")
    code = code.replace("['the first text', 'another'], ['a second text', 'another']", repr(TEXTS)[1:-1])
    exec(code, values := {})
    torch.testing.assert_close(values["logits"], ours, atol=1e-5, rtol=1e-5)
    assert values["model"].config.id2label == dict(enumerate(NAMES))
    assert values["model"].config.label2id["positive"] == 2
    assert values["tokenizer"].model_max_length == 10


@pytest.mark.parametrize("name", ["distilbert"])
def test_it_keeps_the_contract_of_backbones(saved, name, tmp_path):
    folder = saved(name)
    check_model(settings(folder, pretrained="DEFAULT"), data_of(folder))
    check_backbone(settings(folder, pretrained="DEFAULT"), data_of(folder), tmp_path / "checked")


def test_an_encoder_gets_fresh_layers_before_its_head(tmp_path):
    transformers.BertModel(CONFIGS["bert"]()).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    torch.manual_seed(0)
    backbone = load_backbone(settings(tmp_path, pooling="classifier", pretrained="DEFAULT"), pretrained=True)
    assert backbone.head_name == "classifier"
    encoder = transformers.BertModel.from_pretrained(tmp_path)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(backbone.tower.state_dict()[f"bert.{name}"], weight)


def test_as_a_program_it_needs_neither_library_nor_package(saved, tmp_path):
    folder = saved()
    model = build_classifier(settings(folder), len(NAMES)).eval()
    export_program(model, description_of(folder), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    rows = rows_of(folder)
    torch.testing.assert_close(program(rows), model(rows), atol=1e-5, rtol=1e-5)


def refused(what, message):
    with pytest.raises(ModelError) as caught:
        what()
    assert re.sub(r"/\S*/", "", str(caught.value)).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_another_model_is_refused_although_its_tensors_may_fit(saved, tmp_path):
    folder = saved()
    description = description_of(folder)

    def reading(path, of=description):
        return lambda: read_own(path, "auto", of)

    read_own(saved(folder="dropout", hidden_dropout_prob=0.5, classifier_dropout=0.3), "auto", description)
    refused(
        reading(saved("roberta")), "roberta: is a RobertaForSequenceClassification, and the model of the settings is"
    )
    refused(
        reading(saved(folder="heads", num_attention_heads=4)), "heads: its config.json has num_attention_heads 4, the"
    )
    refused(reading(saved(folder="long", max_position_embeddings=16)), "long: its config.json has max_position_embeddi")
    refused(
        reading(saved(folder="two", problem_type="multi_label_classification")), "two: was trained for multi_label_"
    )
    refused(
        reading(folder, description_of(folder, pooling="cls")), "bert: is a BertForSequenceClassification, and model"
    )
    transformers.BertModel(CONFIGS["bert"]()).save_pretrained(tmp_path / "encoder")
    refused(reading(tmp_path / "encoder"), "encoder: is a BertModel, and model.pooling is 'classifier'; leave it out")
    write_tokenizer(saved(folder="tokens"), [*WORDS[1:], WORDS[0]])
    refused(
        reading(tmp_path / "tokens"), "tokens: its tokenizer is another than data.tokenizer; set that to this folder"
    )
    (tmp_path / "tokens" / "tokenizer.json").write_text("{}")
    refused(reading(tmp_path / "tokens"), "tokens: its tokenizer.json cannot be loaded; delete it if")
    (tmp_path / "tokens" / "config.json").write_text("{")
    refused(reading(tmp_path / "tokens"), "tokens: its config.json cannot be read (")


def test_what_is_no_whole_model_is_refused(saved, tmp_path):
    description = description_of(saved())
    for name, said in {
        "adapter_config.json": "holds an adapter (LoRA, say), not a whole model; merge it into its model first",
        "pytorch_model_fsdp_0": "holds shards of FSDP; put them together with `accelerate merge-weights`",
        "global_step500": "holds shards of DeepSpeed; put them together with its zero_to_fp32.py",
    }.items():
        (tmp_path / "parts" / name).mkdir(parents=True)
        if name == "adapter_config.json":
            (tmp_path / "parts" / name).rmdir()
            (tmp_path / "parts" / name).touch()
        refused(lambda: read_own(tmp_path / "parts", "auto", description), f"parts: {said}")
        (tmp_path / "parts" / name).unlink() if name.endswith("json") else (tmp_path / "parts" / name).rmdir()


def test_classifiers_that_take_other_inputs_are_refused(tmp_path):
    t5 = transformers.T5Config(vocab_size=SIZE, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    gpt = transformers.GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    xlnet = transformers.XLNetConfig(vocab_size=SIZE, d_model=16, n_layer=1, n_head=2, d_inner=24, pad_token_id=0)
    for config, said in (
        (t5, ", which has a decoder; take cls or mean"),
        (gpt, " (Cannot handle batch sizes > 1 if no padding token is defined); take cls or mean"),
        (xlnet, " (what it makes of a text depends on the padding behind it); take cls or mean"),
    ):
        config.save_pretrained(tmp_path)
        refused(
            lambda: load_backbone(settings(tmp_path, pooling="classifier"), pretrained=False),
            f"model.pooling: 'classifier' is none for {tmp_path.name}{said}",
        )


def test_what_transformers_has_no_place_for_is_not_exported(saved, tmp_path):
    folder = saved("llama")
    model = build_classifier(settings(folder), len(NAMES))
    torch.nn.init.ones_(model.head.bias)
    refused(
        lambda: export_weights(model, description_of(folder), tmp_path / "out"), "a LlamaForSequenceClassification: "
    )
    assert not (tmp_path / "out").exists()
