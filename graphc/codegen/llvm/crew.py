"""The threads beside the caller, as LLVM text: made when a call needs them, kept for a moment.

A thread that has done its part lingers, and a call that comes meanwhile has it at once: making a
thread takes as long as a small net's whole step. The crew that lingers belongs to one call at a
time. A call beside it makes threads of its own, which end with it; so does a process that was
forked, in which no thread lingers. `graphc_rest` sends the crew away: it must run before the code
is unloaded.
"""

from __future__ import annotations

from graphc.runtime.cpu import LARGEST_TEAM

# How often a thread without work looks for some, which takes some 50 microseconds. It never offers
# its core meanwhile: it might come back to another one's, the caller's, and wait for that.
LINGERS = 4000
OTHER_STACK = 512 << 10  # bytes of a thread beside what it works in; the C library has its part
_MEMBER_BYTES = 64
_ATTRIBUTES_BYTES = 256  # no system's pthread_attr_t is as large
_PAGE = 64 << 10  # a multiple of every system's

_TEXT = """
; What a thread works for, its number there, its state (0: there is none, 1: it lingers, 2: it was
; called), its handle (null: none to join), and whether it is to linger.
%member = type { ptr, i64, i64, ptr, i64, [3 x i64] }
; Whether a call has the crew, the process it lives in, and its members, each on its own cache line.
%crew = type { i64, i64, [6 x i64], [@LARGEST@ x %member] }
@graphc_crew = internal global %crew zeroinitializer, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @getpid()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal ptr @graphc_thread(ptr %member) nounwind {
entry:
  %scratch = alloca [@SCRATCH@ x i8], align @ALIGNMENT@
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  br label %serve
serve:
  %team = load ptr, ptr %member
  %number = load i64, ptr %number_place
  %lingers = load i64, ptr %lingers_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  br label %wait
wait:
  %spins = phi i64 [ 0, %serve ], [ %more, %again ]
  %size = load atomic i64, ptr %size_place acquire, align 8
  %unknown = icmp eq i64 %size, 0
  br i1 %unknown, label %again, label %walk
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
walk:
  call void @graphc_walk(ptr %team, i64 %number, ptr %scratch)
  %stays = icmp ne i64 %lingers, 0
  br i1 %stays, label %linger, label %gone
linger:
  store atomic i64 1, ptr %state_place release, align 8
  br label %idle
idle:
  %waited = phi i64 [ 0, %linger ], [ %waited_more, %wait_more ], [ %waited, %leave ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  switch i64 %state, label %serve [ i64 0, label %gone
                                    i64 1, label %still_idle ]
still_idle:
  %long = icmp ugt i64 %waited, @LINGERS@
  br i1 %long, label %leave, label %wait_more
wait_more:
  @PAUSE@
  %waited_more = add i64 %waited, 1
  br label %idle
leave:
  %left = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  %is_gone = extractvalue { i64, i1 } %left, 1
  br i1 %is_gone, label %gone, label %idle
gone:
  ret ptr null
}

; Make a thread, with stack enough for what it works in.
define internal i32 @graphc_make(ptr %handle_place, ptr %member) nounwind {
entry:
  %kind = alloca [@KIND@ x i8], align 16
  %refused = call i32 @pthread_attr_init(ptr %kind)
  %none = icmp ne i32 %refused, 0
  br i1 %none, label %failed, label %size
size:
  %ignored = call i32 @pthread_attr_setstacksize(ptr %kind, i64 @STACK@)
  %status = call i32 @pthread_create(ptr %handle_place, ptr %kind, ptr @graphc_thread, ptr %member)
  %destroyed = call i32 @pthread_attr_destroy(ptr %kind)
  ret i32 %status
failed:
  ret i32 %refused
}

; Whether a member of the crew could be called to work, its fields being set; else it is made.
define internal i1 @graphc_call(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %swapped = cmpxchg ptr %state_place, i64 1, i64 2 acq_rel monotonic
  %called = extractvalue { i64, i1 } %swapped, 1
  br i1 %called, label %yes, label %other
other:
  call void @graphc_join(ptr %member)
  store atomic i64 2, ptr %state_place monotonic, align 8
  %status = call i32 @graphc_make(ptr %handle_place, ptr %member)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %no, label %yes
yes:
  ret i1 true
no:
  store ptr null, ptr %handle_place
  store atomic i64 0, ptr %state_place monotonic, align 8
  ret i1 false
}

; Wait for the end of a thread that is about to end, if there is one.
define internal void @graphc_join(ptr %member) nounwind {
entry:
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %handle = load ptr, ptr %handle_place
  %none = icmp eq ptr %handle, null
  br i1 %none, label %done, label %join
join:
  %ignored = call i32 @pthread_join(ptr %handle, ptr null)
  store ptr null, ptr %handle_place
  br label %done
done:
  ret void
}

; Wait until a member that lingers has done its part of a call.
define internal void @graphc_await(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  br label %wait
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  %works = icmp eq i64 %state, 2
  br i1 %works, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; The members for a call: the crew, or where another call has that, the caller's own. In a process
; that was forked the crew is forgotten: its threads are in the other one.
define internal ptr @graphc_members(ptr %own) nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %apart
crew:
  %members = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %known, label %forget
forget:
  call void @llvm.memset.p0.i64(ptr %members, i8 0, i64 @MEMBERS@, i1 false)
  store i64 %here, ptr %process_place
  br label %known
known:
  ret ptr %members
apart:
  call void @llvm.memset.p0.i64(ptr %own, i8 0, i64 @MEMBERS@, i1 false)
  ret ptr %own
}

; Send the crew away, unless a call has it.
define void @graphc_rest() nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %done
crew:
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %each, label %give_back
each:
  %j = phi i64 [ 1, %crew ], [ %next, %each ]
  %member = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3, i64 %j
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %told = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  call void @graphc_join(ptr %member)
  %next = add i64 %j, 1
  %more = icmp slt i64 %next, @LARGEST@
  br i1 %more, label %each, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %done
done:
  ret void
}
"""


def crew_text(scratch_bytes: int) -> str:
    """The crew and its functions; a team's text has what they call, and fills in other words.

    scratch_bytes: what each thread works in.
    """
    words = {
        "@MEMBERS@": str(LARGEST_TEAM * _MEMBER_BYTES),
        "@LINGERS@": str(LINGERS),
        "@SCRATCH@": str(scratch_bytes),
        "@STACK@": str(-(-scratch_bytes // _PAGE) * _PAGE + OTHER_STACK),
        "@KIND@": str(_ATTRIBUTES_BYTES),
    }
    text = _TEXT
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
