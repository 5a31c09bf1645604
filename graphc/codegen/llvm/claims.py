"""Shares that threads take from each other, as LLVM text.

A thread's share of a step is cut into pieces, each half as long as the one before, which it claims
one after another; where the step has a grain, pieces begin at multiples of it. Who has none left
claims those of the threads behind it, so that a thread which is slow, or was woken late, holds
nobody up for long. What a piece is does not depend on who claims it: results depend on the number
of threads at most.

A thread's counter tells what was claimed of its share: 256 * (1 + the step) + how many pieces. A
counter of an earlier step stands for none: nobody leaves a step before all that it sees of it is
claimed. So it may be moved on before its thread has come to the step.
"""

from __future__ import annotations

# Halvings of a share: its last two pieces are 1/32 of it each. One call of its kernel for each.
HALVINGS = 5
NEIGHBOURS = 8  # so many threads a thread looks at, itself among them: they may be hundreds

_TEXT = """
; Each counter on its own cache line.
%claim = type { i64, [7 x i64] }

; A piece of a step's units to run now, first and behind the last; { 0, 0 }: there are none left.
; least: no more than so many units are not cut.
define internal { i64, i64 } @graphc_claim(ptr %claims, i64 %thread, i64 %threads, i64 %step,
  i64 %units, i64 %grain, i64 %least) nounwind {
entry:
  %alone = icmp eq i64 %threads, 1
  %halvings = select i1 %alone, i64 0, i64 @HALVINGS@
  %few = icmp ult i64 %threads, @NEIGHBOURS@
  %reach = select i1 %few, i64 %threads, i64 @NEIGHBOURS@
  %numbered = add i64 %step, 1
  %fresh = shl i64 %numbered, 8
  br label %victim
victim:
  %k = phi i64 [ 0, %entry ], [ %k_next, %exhausted ]
  %far = add i64 %thread, %k
  %v = urem i64 %far, %threads
  %low_product = mul i64 %v, %units
  %low = udiv i64 %low_product, %threads
  %high_product = add i64 %low_product, %units
  %high = udiv i64 %high_product, %threads
  %count = sub i64 %high, %low
  %place = getelementptr %claim, ptr %claims, i64 %v
  %first = load atomic i64, ptr %place monotonic, align 8
  br label %look
look:
  ; Piece p begins where count / 2^p units are left; the last one has all of them.
  %seen = phi i64 [ %first, %victim ], [ %now, %take ]
  %is_old = icmp ult i64 %seen, %fresh
  %old = select i1 %is_old, i64 %fresh, i64 %seen
  %piece = sub i64 %old, %fresh
  %is_there = icmp ule i64 %piece, %halvings
  %shift = select i1 %is_there, i64 %piece, i64 0
  %left = lshr i64 %count, %shift
  %is_first = icmp eq i64 %shift, 0
  %shorter = sub i64 %shift, 1
  %shift_before = select i1 %is_first, i64 0, i64 %shorter
  %left_before = lshr i64 %count, %shift_before
  %was_cut = icmp ugt i64 %left_before, %least
  %some = icmp ne i64 %left, 0
  %exists = select i1 %is_first, i1 %some, i1 %was_cut
  %free = and i1 %is_there, %exists
  br i1 %free, label %take, label %exhausted
take:
  %more = add i64 %old, 1
  %swapped = cmpxchg ptr %place, i64 %seen, i64 %more monotonic monotonic
  %now = extractvalue { i64, i1 } %swapped, 0
  %mine = extractvalue { i64, i1 } %swapped, 1
  br i1 %mine, label %found, label %look
found:
  %half = lshr i64 %left, 1
  %from = sub i64 %high, %left
  %to = sub i64 %high, %half
  %from_over = urem i64 %from, %grain
  %to_over = urem i64 %to, %grain
  %from_even = sub i64 %from, %from_over
  %to_even = sub i64 %to, %to_over
  %is_uncut = icmp ule i64 %left, %least
  %is_halved = icmp eq i64 %piece, %halvings
  %is_last = or i1 %is_uncut, %is_halved
  %begin = select i1 %is_first, i64 %low, i64 %from_even
  %end = select i1 %is_last, i64 %high, i64 %to_even
  %begun = insertvalue { i64, i64 } undef, i64 %begin, 0
  %whole = insertvalue { i64, i64 } %begun, i64 %end, 1
  ret { i64, i64 } %whole
exhausted:
  %k_next = add i64 %k, 1
  %is_more = icmp ult i64 %k_next, %reach
  br i1 %is_more, label %victim, label %none
none:
  ret { i64, i64 } zeroinitializer
}
"""


def least_uncut(grain: int) -> int:
    """Units that are left as one piece, so that none is empty when it ends at a whole grain."""
    return 1 if grain == 1 else 4 * grain - 1


def claims_text() -> str:
    """The counters and what claims a piece."""
    words = {"@HALVINGS@": str(HALVINGS), "@NEIGHBOURS@": str(NEIGHBOURS)}
    text = _TEXT
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
