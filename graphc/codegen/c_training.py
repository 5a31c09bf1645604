"""What a program that trains has in C besides: the learning rate, its state, its second pass."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.runtime.bundle import Bundle, Training
from graphc.runtime.parameter_file import table_lines, table_start

# The rate of iteration `n`, for each lr_policy, of the constants below. The order of operations is
# that of the Python solver, so that both find the same bits.
_RATES = {
    "fixed": "BASE",
    "step": "BASE * pow(GAMMA, (double)(n / STEP_SIZE))",
    "multistep": "BASE * pow(GAMMA, (double)steps_taken(n))",
    "exp": "BASE * pow(GAMMA, (double)n)",
    "inv": "BASE * pow(1.0 + GAMMA * (double)n, -POWER)",
    "poly": "BASE * pow(1.0 - (double)n / (double)MOST, POWER)",
    "sigmoid": "BASE * (x > 0 ? 1.0 : small) / (1.0 + small)",
}
# What comes before it.
_BEFORE = {
    "sigmoid": (
        "    double x = GAMMA * (double)(n - STEP_SIZE);",
        "    double small = exp(-fabs(x));",
    )
}
_STEPS_TAKEN = """\
/* Each value in turn is a step, at the earliest in the iteration after the step before. */
static int steps_taken(int64_t n) {
    static const int64_t values[] = {@VALUES@};
    int64_t last = -1;
    int steps = 0;
    for (int i = 0; i < @COUNT@; i++) {
        last = values[i] > last ? values[i] : last + 1;
        steps += last <= n;
    }
    return steps;
}
"""


def training_lines(training: Training, bundle: Bundle, text_of: Mapping[str, str]) -> list[str]:
    """The tables of step.c; `text_of` has a C string for every line of the weights' own table."""
    numbers = {slot.name: number for number, slot in enumerate(bundle.slots)}
    sums = [str(numbers[name]) for name in training.sums]
    lines = [
        f"#define RATE_SLOT {numbers.get(training.rate, 0)}",
        "#define MOST_ITERATIONS INT64_C(1000000000000)",
        f"#define TABLE_START UINT64_C({table_start(bundle.slots)})",
        "static const char *const line_table[] = {",
        *(f"    {text_of[line.decode()]}," for line in table_lines(bundle.slots)),
        '    "",',
        "};",
        f"#define LINE_COUNT {len(table_lines(bundle.slots))}",
    ]
    if training.earlier is not None:
        places = ", ".join(str(numbers[slot.name]) for slot in training.earlier.slots)
        lines += [
            f"#define PASS_SLOT_COUNT {len(training.earlier.slots)}",
            f"static const int pass_table[] = {{{places}}};",
            f"#define FIRST_PASS_CHECK {len(bundle.checks) - len(training.earlier.checks)}",
            f"static const int sum_table[] = {{{', '.join(sums) or '0'}}};",
            f"#define SUM_COUNT {len(sums)}",
        ]
    return [*lines, "", *_rate_lines(training)]


def _number(value: float | int) -> str:
    """A C constant."""
    if isinstance(value, int):
        return f"INT64_C({value})"
    return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(repr(value), repr(value))


def _rate_lines(training: Training) -> list[str]:
    """`rate_at(n)`, the rate of iteration n counted from 0; and Adam's correction of step t."""
    rates = training.rates
    constants = {
        "BASE": rates.base,
        "GAMMA": rates.gamma,
        "POWER": rates.power,
        "STEP_SIZE": rates.stepsize,
        "MOST": rates.max_iter,
    }
    text = "\n".join([*_BEFORE.get(rates.policy, ()), _RATES[rates.policy]])
    lines = [
        f"#define {word} ({_number(value)})" for word, value in constants.items() if word in text
    ]
    if "steps_taken" in text:
        values = ", ".join(f"INT64_C({value})" for value in rates.stepvalues)
        steps = _STEPS_TAKEN.replace("@VALUES@", values or "0")
        lines.append(steps.replace("@COUNT@", str(len(rates.stepvalues))))
    lines += [
        "static double rate_at(int64_t n) {",
        *_BEFORE.get(rates.policy, ()),
        *(["    (void)n;"] if rates.policy == "fixed" else []),
        f"    return {_RATES[rates.policy]};",
        "}",
    ]
    correction = "1.0"
    if training.momenta is not None:
        one, two = training.momenta
        correction = f"(sqrt(1.0 - pow({two}, (double)(t))) / (1.0 - pow({one}, (double)(t))))"
    return [*lines, f"#define RATE_CORRECTION(t) {correction}"]
