"""Settings that nobody means: odd values at random places of good ones, seeded."""

import copy
import random

import yaml

GOOD = yaml.safe_load("""
name: hostile
seed: 0
plugins: []
output: runs/hostile
data: {source: digits, image_size: 8, test_size: 100, train_size: 300, validation_size: 0.2, select_fraction: 0.2,
       pretrain_size: 100, class_names: null, train: null, test: null, root: null, store: null, memory_gib: null,
       shifts: {}, image_column: null}
model:
  backbone: open_clip
  name: null
  pretrained: null
  architecture:
    embed_dim: 16
    vision_cfg: {image_size: 8, patch_size: 2, width: 16, layers: 1, head_width: 8, mlp_ratio: 2.0}
    text_cfg: {context_length: 8, vocab_size: 49408, width: 8, heads: 1, layers: 1}
  head: linear_probe
  templates: ["a {}"]
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
  contrastive: {epochs: 1, batch_size: 10, lr: 0.001}
search:
  trainer: finetune
  space: random
  num_trials: 3
  distributions: {lr: {loguniform: [0.0001, 0.01]}, epochs: {randint: [1, 3]}, mixup: {uniform: [0, 1]},
                  batch_size: {choice: [20, 50]}, weight_decay: {grid: [0, 0.1]}}
  gpus_per_trial: 0
  cpus_per_trial: 1
  max_failures: 2
  storage: null
  warmup_fraction: 0.05
  gradient_clip: 1.0
  precision: null
  compile: false
soup:
  methods: [greedy, mehl, wise-ft]
  settings:
    greedy: {order: accuracy, sweeps: 1}
    mehl: {block_size: 2, inner_iterations: 10, learning_rate: 0.01, warmup: 0.1, memory_budget_gib: 1}
    learned: {temperature: false, learning_rate: 0.1}
    wise-ft: {alpha: 0.5}
  include_initialization: false
  leave_out: []
study:
  cost_accuracy: {methods: [greedy], step: 4, orders: 0}
  elimination: {methods: [greedy], top: [1]}
  ablation: {mehl: {block_size: [1, 2], seed: [1]}}
  wise_ft: {methods: [greedy], alphas: [0.0, 0.5]}
report: {price_per_gpu_hour: 2.5}
registry: {tracking_uri: null}
""")

# As text: what YAML makes of them is part of the question.
_NUMBERS = """
0 -1 1 2 1.5 1e3 -0.0 1e-320 1e308 -1e308 1e400 .inf -.inf .nan 'inf' 'nan' '1' 12345678901234567890
-12345678901234567890 9223372036854775807 9223372036854775808 4294967296 2147483648 1000000 1e30 1e18 0o17 017 1_000
1:30 2024-01-01 2024-99-99 2024-01-01T25:00:00Z
"""
_WORDS = """
null true no '' ~nouser ~nouser/x '~' ~/x / /dev/null /dev/null/x /proc/self/mem . .. '*' '**/*' '[' ü '%s%n' '{}'
'{0.__class__}' '{' '$HOME' 'http://[' http://a:b@c/ 'sqlite://' 'sqlite:///' file:///x s3://b/x '://' ftp://x
http://h:99999/ greedy digits parquet imagenet timm torchvision resnet18 random standard-grid extreme-grid zero_shot
auto bfloat16 = << *unknown 'unclosed %TAG @ ` "\\0" "a\\0b" "\\e[31mred" "\\ud800" "two\\nlines" "\\u202eback"
"\\x85\\u2028"
"""
_TAGS = [
    "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!binary aGFsbG8=", "!!binary '%'",
    "!!python/object:os.system {}",
    "!!python/name:os.system ''", "!!int abc", "!!int ''", "!!float abc", "!!bool maybe", "!!timestamp never",
    "!!str [a]", "!!seq a", "!!map a", "!own 1", "!!merge a",
]  # fmt: skip
_GROUPS = [
    "[]", "{}", "{<<: 3}", "{<<: [3]}", "{? [a, b] : c}", "{1: 2}", "{true: 1}", "{'': 1}", "[null]", "[true]", "[[]]",
    "[{}]", "[1, 1]", "[a, a]", "[1]", "[-1, 1]", "[1, -1]", "[0, 0, 0]", "[.nan, .nan]", "[-1e308, 1e308]",
    "[1e-320, 1e308]",
    "[0, 12345678901234567890]", "[1, 2147483648]", "[.inf, 1, 1]", "[a, b]", "['']", "{a: 1}", "{a: {b: {c: {}}}}",
    "{lr: 1}", "{choice: []}", "{grid: [1, 2, 3]}", "{choice: [1e308]}", "{choice: [a]}", "{choice: [true]}",
    "{uniform: [0, 1], probability: .nan}", "{uniform: [0, 1e308]}", "{loguniform: [5e-324, 1e38]}",
    "{randint: [1, 1000000]}", "{randint: [0, 99999999999999999999]}", "{probability: 0.5}", "[greedy, greedy]",
    "&r [*r]", "&r {a: *r}", "[unclosed", "{a: 1, a: 2}", "--- a", "--- a\n--- b", "- a\n- b", "\t", "a: b: c",
    "|\n  text\n",
]  # fmt: skip
_LARGE = [
    "9" * 400, "9" * 5000, "0x" + "f" * 40, "a" * 300, "b/" * 3000, "c" * 3000, "'" + "d e" * 3000 + "'",
    "[" * 50 + "]" * 50, "[" * 500 + "]" * 500, "{a: " * 50 + "1" + "}" * 50, "[" * 5000,
    "[&a [x, x], &b [*a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b], [*c, *c, *c, *c, *c]]",
    "[" + ", ".join(map(str, range(500))) + "]", "[" + ", ".join("ab"[i % 2] for i in range(500)) + "]",
    "{" + ", ".join(f"k{i}: {i}" for i in range(500)) + "}",
]  # fmt: skip
VALUES = [*_NUMBERS.split(), *_WORDS.split(), *_TAGS, *_GROUPS, *_LARGE]
# Of the right kind, so that some of them are accepted: what comes after the settings meets them.
NUMBERS = [
    "0", "1", "3", "17", "99", "1000", "2048", "65536", "99999", "100000", "999999", "1000000", "1000000000",
    "4294967295",
    "9223372036854775807", "1e-300", "1e-9", "0.001", "0.5", "0.999999", "1.5", "999.9", "1e9", "1e30", "1e38", "1e300",
]  # fmt: skip
_ODD_KEYS = [
    "",
    "a" * 3000,
    "no",
    "1",
    "a.b",
    "lr ",
    "<<",
    "ü",
    "epochs",
    "name",
    "__class__",
    "model_config",
    "{}",
    "k\ty",
]


def paths_of(values, above=()):
    """The path of every value, of groups too."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*above, key))


PATHS = list(paths_of(GOOD))


def at(path):
    """The good value at a path."""
    value = GOOD
    for part in path:
        value = value[part]
    return value


def hostile_settings(seed: int) -> tuple[str, list[str]]:
    """The text of a settings file, and overrides, with one to three values that are odd."""
    chance = random.Random(seed)
    settings, marks, overrides = copy.deepcopy(GOOD), {}, []
    for number in range(chance.choice([1, 1, 1, 2, 3])):
        path = chance.choice(PATHS)
        alike = isinstance(at(path), int | float) and chance.random() < 0.6
        value = chance.choice(NUMBERS if alike else VALUES)
        if chance.random() < 0.3 and all(isinstance(part, str) for part in path):
            below = (
                [chance.choice(["x", "0", "-", "lr", "a" * 300, ".".join("deep" * 9)])] if chance.random() < 0.2 else []
            )
            overrides.append(f"{'.'.join([*path, *below])}={value}")
            continue
        group = settings
        for part in path[:-1]:
            if not isinstance(group, dict | list):
                break
            group = group[part]
        if isinstance(group, dict | list):
            odd = isinstance(group, dict) and chance.random() < 0.1
            group[chance.choice(_ODD_KEYS) if odd else path[-1]] = f"MARK{number}"
            marks[f"MARK{number}"] = value
    text = yaml.safe_dump(settings, default_flow_style=True, width=10**9, sort_keys=False)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text, overrides
