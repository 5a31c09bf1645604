"""The threads of one call, as LLVM text: a team walks one list of steps together.

`graphc_run` calls threads - 1 threads beside the caller. Each walks the same steps and takes its
share of each one; they wait for each other only before steps that touch what others may still use.
Waiting spins for a short time, then offers the core to others. With one thread, or too little work
for more, none of this runs.

The threads come from the crew (see `crew`).

Given a timer, each thread notes the time before a step, when no other has to be waited for any
more, and behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm.claims import claims_text
from graphc.codegen.llvm.crew import crew_text
from graphc.codegen.llvm.scratch import ALIGNMENT
from graphc.codegen.llvm.target import Target
from graphc.runtime.cpu import LARGEST_TEAM

# Calling a thread that lingers takes about one microsecond, making one some 40. So many scalar
# instructions, times the lanes that do them at once, take at least 13, and several times as long
# where each is done to numbers that come from afar: calls one after another gain by a team, and
# those far apart lose little.
WORTH_A_TEAM = 100_000
SPINS = 1000

# slots, error, first step, last step, size (0 until it is known), timer or null, what each thread
# claims of its share; then, each on its own cache line, how many have arrived at a barrier, and how
# many barriers are behind.
_TEAM = "{ ptr, ptr, i64, i64, i64, ptr, ptr, i64, i64, [7 x i64], i64, [7 x i64] }"

_TYPE = "%team = type @TEAM@\n"

_TEXT = """
; clock_gettime or the like, the clock it is to read, room for the times, and how many of them each
; thread has: two struct timespec a step.
%timer = type { ptr, i32, ptr, i64 }

declare i32 @sched_yield()
@DECLARE_PAUSE@

; Wait a moment; after many moments, let somebody else run.
define internal void @graphc_pause(i64 %spins) nounwind {
entry:
  @PAUSE@
  %long = icmp ugt i64 %spins, @SPINS@
  br i1 %long, label %yield, label %done
yield:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}

define internal void @graphc_barrier(ptr %team, i64 %size) nounwind {
entry:
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  %now = load atomic i64, ptr %behind monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %size
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %arrived monotonic, align 8
  %next = add i64 %now, 1
  store atomic i64 %next, ptr %behind release, align 8
  ret void
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %seen = load atomic i64, ptr %behind acquire, align 8
  %still = icmp eq i64 %seen, %now
  br i1 %still, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; Note when a thread begins a step (side 0), or ends it (side 1).
define internal void @graphc_note(ptr %timer, i64 %thread, i64 %step, i64 %side) nounwind {
entry:
  %clock = load ptr, ptr %timer
  %kind_place = getelementptr %timer, ptr %timer, i32 0, i32 1
  %kind = load i32, ptr %kind_place
  %times_place = getelementptr %timer, ptr %timer, i32 0, i32 2
  %times = load ptr, ptr %times_place
  %room_place = getelementptr %timer, ptr %timer, i32 0, i32 3
  %room = load i64, ptr %room_place
  %before = mul i64 %thread, %room
  %twice = mul i64 %step, 2
  %number = add i64 %twice, %side
  %place = add i64 %before, %number
  %time = getelementptr [2 x i64], ptr %times, i64 %place
  %ignored = call i32 %clock(i32 %kind, ptr %time)
  ret void
}

define internal void @graphc_walk(ptr %team, i64 %thread, ptr %scratch) nounwind {
entry:
  %slots = load ptr, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  %error = load ptr, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  %first = load i64, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  %last = load i64, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  %size = load i64, ptr %size_place
  %together = icmp ugt i64 %size, 1
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  %timer = load ptr, ptr %timer_place
  %timed = icmp ne ptr %timer, null
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  %claims = load ptr, ptr %claims_place
  %some = icmp slt i64 %first, %last
  br i1 %some, label %step, label %done
step:
  %s = phi i64 [ %first, %entry ], [ %following, %behind ]
  %flag_place = getelementptr i8, ptr @graphc_waits, i64 %s
  %flag = load i8, ptr %flag_place
  %flagged = icmp ne i8 %flag, 0
  %waits = and i1 %flagged, %together
  br i1 %waits, label %barrier, label %ready
barrier:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %ready
ready:
  %may_stop = icmp eq i64 %s, @STOP@
  %begun = icmp ne i64 %s, %first
  %looks = and i1 %may_stop, %begun
  br i1 %looks, label %look, label %go
look:
  %found = load i64, ptr %error
  %refused = icmp ne i64 %found, 0
  br i1 %together, label %seen, label %decide
seen:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %decide
decide:
  br i1 %refused, label %done, label %go
go:
  br i1 %timed, label %note, label %run
note:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 0)
  br label %run
run:
  %function_place = getelementptr ptr, ptr @graphc_steps, i64 %s
  %function = load ptr, ptr %function_place
  call void %function(ptr %slots, i64 %thread, i64 %size, ptr %error, ptr %scratch, ptr %claims)
  br i1 %timed, label %note_end, label %behind
note_end:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 1)
  br label %behind
behind:
  %following = add i64 %s, 1
  %more = icmp slt i64 %following, %last
  br i1 %more, label %step, label %done
done:
  ret void
}

define internal i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %wanted, ptr %error,
  ptr %timer) nounwind {
entry:
  %team = alloca %team, align 64
  %own = alloca [@LARGEST@ x %member], align 64
  %claims = alloca [@LARGEST@ x %claim], align 64
  store ptr %slots, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  store ptr %error, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  store i64 %first, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  store i64 %last, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  store i64 0, ptr %size_place
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  store ptr %timer, ptr %timer_place
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  store ptr %claims, ptr %claims_place
  store i64 0, ptr %claims
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  store i64 0, ptr %arrived
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  store i64 0, ptr %behind
  store i64 0, ptr %error
  %value_place = getelementptr i64, ptr %error, i64 1
  store i64 0, ptr %value_place
  %few = icmp slt i32 %wanted, @LARGEST@
  %clamped = select i1 %few, i32 %wanted, i32 @LARGEST@
  %threads = sext i32 %clamped to i64
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %count, label %start
count:
  %s = phi i64 [ %first, %entry ], [ %following, %counted ]
  %work = phi i64 [ 0, %entry ], [ %more_work, %counted ]
  %counting = icmp slt i64 %s, %last
  br i1 %counting, label %counted, label %weigh
counted:
  %work_place = getelementptr i64, ptr @graphc_work, i64 %s
  %step_work = load i64, ptr %work_place
  %more_work = add i64 %work, %step_work
  %following = add i64 %s, 1
  br label %count
weigh:
  %worth = icmp sge i64 %work, @WORTH@
  br i1 %worth, label %gather, label %start
gather:
  %members = call ptr @graphc_members(ptr %own)
  %apart = icmp eq ptr %members, %own
  %lingering = select i1 %apart, i64 0, i64 1
  br label %create
create:
  %t = phi i64 [ 1, %gather ], [ %next, %made ]
  %member = getelementptr %member, ptr %members, i64 %t
  store ptr %team, ptr %member
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  store i64 %t, ptr %number_place
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  store i64 %lingering, ptr %lingers_place
  %claim_place = getelementptr %claim, ptr %claims, i64 %t
  store i64 0, ptr %claim_place
  %called = call i1 @graphc_call(ptr %member)
  br i1 %called, label %made, label %start
made:
  %next = add i64 %t, 1
  %all = icmp eq i64 %next, %threads
  br i1 %all, label %start, label %create
start:
  ; Where the system refuses a thread, the team is those that were made.
  %size = phi i64 [ 1, %entry ], [ 1, %weigh ], [ %t, %create ], [ %threads, %made ]
  %all_members = phi ptr [ null, %entry ], [ null, %weigh ], [ %members, %create ],
                         [ %members, %made ]
  store atomic i64 %size, ptr %size_place release, align 8
  %arena = load ptr, ptr %slots
  %beyond = getelementptr i8, ptr %arena, i64 @BEYOND@
  %address = ptrtoint ptr %beyond to i64
  %aligned = and i64 %address, -@ALIGNMENT@
  %scratch = inttoptr i64 %aligned to ptr
  call void @graphc_walk(ptr %team, i64 0, ptr %scratch)
  %alone = icmp eq ptr %all_members, null
  br i1 %alone, label %end, label %leave
leave:
  %with_own = icmp eq ptr %all_members, %own
  br label %each
each:
  %j = phi i64 [ 1, %leave ], [ %following_j, %done_one ]
  %left = icmp slt i64 %j, %size
  br i1 %left, label %one, label %all_done
one:
  %leaving = getelementptr %member, ptr %all_members, i64 %j
  br i1 %with_own, label %join, label %await
join:
  call void @graphc_join(ptr %leaving)
  br label %done_one
await:
  call void @graphc_await(ptr %leaving)
  br label %done_one
done_one:
  %following_j = add i64 %j, 1
  br label %each
all_done:
  br i1 %with_own, label %end, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %end
end:
  %code = load i64, ptr %error
  %short = trunc i64 %code to i32
  ret i32 %short
}
"""


@dataclass(frozen=True)
class ArenaEnd:
    """An arena's planned bytes, and the bytes behind them in which the caller's thread works."""

    planned: int
    scratch: int


def team_text(target: Target, arena: ArenaEnd, stop: int = -1) -> str:
    """The functions of a team; they expect @graphc_steps, @graphc_waits and @graphc_work.

    stop: the step before which a call ends if a check has failed, where it is not the first.
    """
    declare, pause = "", ""
    if target.triple.startswith(("x86_64", "i686", "amd64")):
        declare = "declare void @llvm.x86.sse2.pause()"
        pause = "call void @llvm.x86.sse2.pause()"
    words = {
        "@TEAM@": _TEAM,
        "@LARGEST@": str(LARGEST_TEAM),
        "@WORTH@": str(WORTH_A_TEAM * target.lanes("float32")),
        "@SPINS@": str(SPINS),
        "@STOP@": str(stop),
        "@BEYOND@": str(arena.planned + ALIGNMENT - 1),
        "@ALIGNMENT@": str(ALIGNMENT),
        "@DECLARE_PAUSE@": declare,
        "@PAUSE@": pause,
    }
    text = _TYPE + crew_text(arena.scratch) + claims_text() + _TEXT
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
