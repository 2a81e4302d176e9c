; A pool of threads and the parallel loop over it, linked into every compiled program. The platform's constants
; (@clock.*, @signal.*), @relax, and the parking of threads (@park.*) come from the texts that pool.py puts beside this
; one.
;
; One launch at a time has the pool ("busy"); any other caller runs its range alone, so nothing ever waits for a pool.
;
; `state` is the one word that callers and workers agree by:
;     bits 63..32  generation: the number of launches so far
;     bit  31      open: chunks of this generation may be taken
;     bit  30      the caller sleeps until the last worker leaves
;     bit  29      stop: workers end
;     bits 28..0   workers inside the launch
; A worker enters by adding one while the launch is open, takes chunks from `next`, and leaves by subtracting one.
; The caller takes chunks as well, closes the launch when there are none left, and waits only for workers that are
; inside. A worker that slept through a launch costs it nothing, and after a fork, where no worker exists, nobody waits.
;
; The job's fields are written only while the launch is closed and empty, and read only by workers inside:
;     opening is a release and entering an acquire (the job is seen);
;     leaving is a release and the caller's last look an acquire (the results are seen).

%onnxc.job = type {
  ptr,                    ; 0 fn: void (ptr arg, i64 begin, i64 end, i64 thread)
  ptr,                    ; 1 arg
  i64,                    ; 2 total
  i64,                    ; 3 grain
  i64,                    ; 4 chunks
  ptr,                    ; 5 cancel: i32 word or null
  [80 x i8]
}

; Groups that different threads write stand 128 bytes apart: two cache lines, for prefetchers that fetch pairs.
%onnxc.pool = type {
  i64,                    ; 0 threads, with the caller
  i64,                    ; 1 spin_ns
  i64,                    ; 2 workers that run; -1 before the first launch
  i32, i32,               ; 3 process that started them; 4 unused
  [96 x i8],              ; 5
  i32, [124 x i8],        ; 6 busy; 7
  i64, [120 x i8],        ; 8 state; 9
  i64, [120 x i8],        ; 10 next chunk; 11
  %onnxc.job,             ; 12
  i64, [120 x i8],        ; 13 workers asleep; 14
  [256 x i8],             ; 15 the platform's parking objects
  [0 x %onnxc.worker]     ; 16
}

%onnxc.worker = type {
  ptr,                    ; 0 pool
  i64,                    ; 1 thread number, from 1
  ptr                     ; 2 pthread_t
}

@onnxc.default_spin_ns = internal constant i64 50000
@onnxc.most_threads = internal constant i64 4096
@onnxc.least_stack = internal constant i64 524288
@onnxc.stack = internal constant i64 1048576

declare i32 @posix_memalign(ptr, i64, i64) nounwind
declare void @free(ptr) nounwind
declare i32 @getpid() nounwind
declare i32 @clock_gettime(i32, ptr) nounwind
declare i32 @sigfillset(ptr) nounwind
declare i32 @sigdelset(ptr, i32) nounwind
declare i32 @pthread_sigmask(i32, ptr, ptr) nounwind
declare i32 @pthread_create(ptr, ptr, ptr, ptr) nounwind
declare i32 @pthread_join(ptr, ptr) nounwind
declare i32 @pthread_attr_init(ptr) nounwind
declare i32 @pthread_attr_destroy(ptr) nounwind
declare i32 @pthread_attr_getstacksize(ptr, ptr) nounwind
declare i32 @pthread_attr_setstacksize(ptr, i64) nounwind
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)

; ---------------------------------------------------------------------------------------------- life of a pool

; A pool of `threads` threads, the caller among them; workers start with the first launch. spin_ns < 0: the default.
; Null when there is no memory.
define ptr @onnxc_pool_new(i64 %wanted, i64 %spin_ns) nounwind {
  %most = load i64, ptr @onnxc.most_threads
  %capped = call i64 @llvm.smin.i64(i64 %wanted, i64 %most)
  %threads = call i64 @llvm.smax.i64(i64 %capped, i64 1)
  %size.ptr = getelementptr %onnxc.pool, ptr null, i64 0, i32 16, i64 %threads
  %size = ptrtoint ptr %size.ptr to i64
  %slot = alloca ptr
  %failed = call i32 @posix_memalign(ptr %slot, i64 128, i64 %size)
  %none = icmp ne i32 %failed, 0
  br i1 %none, label %no.memory, label %made
no.memory:
  ret ptr null
made:
  %pool = load ptr, ptr %slot
  call void @llvm.memset.p0.i64(ptr %pool, i8 0, i64 %size, i1 false)
  store i64 %threads, ptr %pool
  %spin.given = icmp sge i64 %spin_ns, 0
  %spin.default = load i64, ptr @onnxc.default_spin_ns
  %spin = select i1 %spin.given, i64 %spin_ns, i64 %spin.default
  %spin.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 1
  store i64 %spin, ptr %spin.at
  call void @onnxc_pool_abandon(ptr %pool)
  ret ptr %pool
}

; How many threads a launch may use; `thread` in a body is below it. 1 for a null pool.
define i64 @onnxc_pool_threads(ptr %pool) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %alone, label %read
alone:
  ret i64 1
read:
  %threads = load i64, ptr %pool
  ret i64 %threads
}

; Forgets the workers: what a forked child calls, which has the pool's memory and none of its threads. The next launch
; starts new ones. No launch may be under way in this process.
define void @onnxc_pool_abandon(ptr %pool) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %done, label %reset
reset:
  %workers.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 2
  %busy.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 6
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %asleep.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 13
  store i64 -1, ptr %workers.at
  store atomic i64 0, ptr %state.at monotonic, align 8
  store atomic i64 0, ptr %asleep.at monotonic, align 8
  call void @park.init(ptr %pool)
  store atomic i32 0, ptr %busy.at release, align 4
  br label %done
done:
  ret void
}

; Ends the workers and gives the memory back. No launch may be under way.
define void @onnxc_pool_free(ptr %pool) nounwind {
  %null = icmp eq ptr %pool, null
  br i1 %null, label %done, label %look
look:
  %workers.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 2
  %workers = load i64, ptr %workers.at
  %any = icmp sgt i64 %workers, 0
  br i1 %any, label %started, label %unpark
started:
  %ours = call i1 @onnxc.workers_exist(ptr %pool)
  br i1 %ours, label %stop, label %release
stop:
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %state = load atomic i64, ptr %state.at monotonic, align 8
  %bumped = add i64 %state, 4294967296
  %stopping = or i64 %bumped, 536870912
  %old = atomicrmw xchg ptr %state.at, i64 %stopping seq_cst
  call void @park.wake_workers(ptr %pool, i64 %workers)
  br label %each
each:
  %i = phi i64 [ 0, %stop ], [ %i.next, %each ]
  %thread.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 16, i64 %i, i32 2
  %thread = load ptr, ptr %thread.at
  %joined = call i32 @pthread_join(ptr %thread, ptr null)
  %i.next = add i64 %i, 1
  %more = icmp slt i64 %i.next, %workers
  br i1 %more, label %each, label %unpark
unpark:
  call void @park.destroy(ptr %pool)
  br label %release
release:
  call void @free(ptr %pool)
  br label %done
done:
  ret void
}

; Whether this process started the workers. In a forked child that did not abandon them, they and what they sleep on are
; the parent's. A system call: for slow paths.
define internal i1 @onnxc.workers_exist(ptr %pool) nounwind noinline {
  %pid.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 3
  %pid.then = load i32, ptr %pid.at
  %pid.now = call i32 @getpid()
  %ours = icmp eq i32 %pid.then, %pid.now
  ret i1 %ours
}

; Starts the workers, with every signal blocked but those that a fault of their own raises, so that the process's
; signals go to threads that expect them. Fewer threads than wanted are what there is. Only under `busy`.
define internal void @onnxc.start(ptr %pool) nounwind noinline {
  %attributes = alloca [128 x i8], align 16
  %blocked = alloca [128 x i8], align 16
  %before = alloca [128 x i8], align 16
  %threads = load i64, ptr %pool
  %pid.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 3
  %pid = call i32 @getpid()
  store i32 %pid, ptr %pid.at
  call void @onnxc.thread_attributes(ptr %attributes)
  %s0 = call i32 @sigfillset(ptr %blocked)
  %s1 = call i32 @sigdelset(ptr %blocked, i32 4)
  %s2 = call i32 @sigdelset(ptr %blocked, i32 8)
  %s3 = call i32 @sigdelset(ptr %blocked, i32 11)
  %bus = load i32, ptr @signal.bus
  %s4 = call i32 @sigdelset(ptr %blocked, i32 %bus)
  %block = load i32, ptr @signal.block
  %restore = load i32, ptr @signal.setmask
  %m0 = call i32 @pthread_sigmask(i32 %block, ptr %blocked, ptr %before)
  br label %each
each:
  %number = phi i64 [ 1, %0 ], [ %next, %made ]
  %more = icmp slt i64 %number, %threads
  br i1 %more, label %create, label %done
create:
  %index = sub i64 %number, 1
  %worker = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 16, i64 %index
  %number.at = getelementptr %onnxc.worker, ptr %worker, i64 0, i32 1
  %thread.at = getelementptr %onnxc.worker, ptr %worker, i64 0, i32 2
  store ptr %pool, ptr %worker
  store i64 %number, ptr %number.at
  %failed = call i32 @pthread_create(ptr %thread.at, ptr %attributes, ptr @onnxc.work, ptr %worker)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %made, label %done
made:
  %next = add i64 %number, 1
  br label %each
done:
  %workers = sub i64 %number, 1
  %workers.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 2
  store i64 %workers, ptr %workers.at
  %m1 = call i32 @pthread_sigmask(i32 %restore, ptr %before, ptr null)
  %d = call i32 @pthread_attr_destroy(ptr %attributes)
  ret void
}

; The default attributes; where the default stack is small (musl: 128 KiB), a larger one.
define internal void @onnxc.thread_attributes(ptr %attributes) nounwind {
  %stack.at = alloca i64
  store i64 0, ptr %stack.at
  %i = call i32 @pthread_attr_init(ptr %attributes)
  %g = call i32 @pthread_attr_getstacksize(ptr %attributes, ptr %stack.at)
  %stack = load i64, ptr %stack.at
  %least = load i64, ptr @onnxc.least_stack
  %small = icmp ult i64 %stack, %least
  br i1 %small, label %enlarge, label %done
enlarge:
  %enough = load i64, ptr @onnxc.stack
  %s = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 %enough)
  br label %done
done:
  ret void
}

; ------------------------------------------------------------------------------------------------------ a launch

; Calls fn(arg, begin, end, thread) over [0, total) in chunks of `grain` indices (the last may be shorter), each exactly
; once, on as many threads as come, and returns when all are done. A chunk that has not begun when the word at `cancel`
; becomes non-zero is left out. Without a pool, with one chunk or one thread, inside another launch, and while another
; caller has the pool, the caller does all of it: in one call when there is nothing to cancel it.
define void @onnxc_parallel_for(ptr %pool, ptr %fn, ptr %arg, i64 %total, i64 %grain.given, ptr %cancel) nounwind {
  %empty = icmp sle i64 %total, 0
  br i1 %empty, label %done, label %measure
measure:
  %grain = call i64 @llvm.smax.i64(i64 %grain.given, i64 1)
  %one = icmp sle i64 %total, %grain
  %null = icmp eq ptr %pool, null
  %simple = or i1 %one, %null
  br i1 %simple, label %alone, label %look
look:
  %threads = load i64, ptr %pool
  %single = icmp sle i64 %threads, 1
  br i1 %single, label %alone, label %take
take:
  %busy.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 6
  %busy = load atomic i32, ptr %busy.at monotonic, align 4
  %taken = icmp ne i32 %busy, 0
  br i1 %taken, label %alone, label %claim
claim:
  %pair = cmpxchg ptr %busy.at, i32 0, i32 1 acquire monotonic
  %claimed = extractvalue { i32, i1 } %pair, 1
  br i1 %claimed, label %have, label %alone
have:
  %workers.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 2
  %started = load i64, ptr %workers.at
  %unstarted = icmp slt i64 %started, 0
  br i1 %unstarted, label %start, label %launch
start:
  call void @onnxc.start(ptr %pool)
  br label %launch
launch:
  call void @onnxc.launch(ptr %pool, ptr %fn, ptr %arg, i64 %total, i64 %grain, ptr %cancel)
  store atomic i32 0, ptr %busy.at release, align 4
  br label %done
alone:
  call void @onnxc.alone(ptr %fn, ptr %arg, i64 %total, i64 %grain, ptr %cancel)
  br label %done
done:
  ret void
}

define internal void @onnxc.launch(ptr %pool, ptr %fn, ptr %arg, i64 %total, i64 %grain, ptr %cancel) nounwind {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %next.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 10
  %job = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 12
  %arg.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 1
  %total.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 2
  %grain.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 3
  %chunks.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 4
  %cancel.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 5
  %asleep.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 13
  ; Rounded up without overflow: total is at least 1.
  %last = sub i64 %total, 1
  %whole = udiv i64 %last, %grain
  %chunks = add i64 %whole, 1
  store ptr %fn, ptr %job
  store ptr %arg, ptr %arg.at
  store i64 %total, ptr %total.at
  store i64 %grain, ptr %grain.at
  store i64 %chunks, ptr %chunks.at
  store ptr %cancel, ptr %cancel.at
  store atomic i64 0, ptr %next.at monotonic, align 8
  %closed = load atomic i64, ptr %state.at monotonic, align 8
  %generation = lshr i64 %closed, 32
  %newer = add i64 %generation, 1
  %shifted = shl i64 %newer, 32
  %opened = or i64 %shifted, 2147483648
  ; Sequentially consistent with the sleepers' count: either a worker about to sleep sees the new generation, or it is
  ; seen here.
  %before = atomicrmw xchg ptr %state.at, i64 %opened seq_cst
  %asleep = load atomic i64, ptr %asleep.at seq_cst, align 8
  %sleepers = icmp sgt i64 %asleep, 0
  br i1 %sleepers, label %wake, label %work
wake:
  %ours = call i1 @onnxc.workers_exist(ptr %pool)
  br i1 %ours, label %wake.them, label %orphaned
wake.them:
  %useful = call i64 @llvm.smin.i64(i64 %asleep, i64 %whole)
  call void @park.wake_workers(ptr %pool, i64 %useful)
  br label %work
orphaned:
  ; Not even a lock of theirs can be taken. The next launch starts workers of this process.
  %workers.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 2
  store i64 -1, ptr %workers.at
  store atomic i64 0, ptr %asleep.at monotonic, align 8
  call void @park.init(ptr %pool)
  br label %work
work:
  call void @onnxc.chunks(ptr %pool, i64 0)
  %when.closed = atomicrmw and ptr %state.at, i64 -2147483649 acq_rel
  %inside = and i64 %when.closed, 536870911
  %all.out = icmp eq i64 %inside, 0
  br i1 %all.out, label %done, label %wait
wait:
  call void @onnxc.wait_for_workers(ptr %pool)
  br label %done
done:
  ret void
}

; The whole range in the calling thread.
define internal void @onnxc.alone(ptr %fn, ptr %arg, i64 %total, i64 %grain, ptr %cancel) nounwind {
  %uncancelled = icmp eq ptr %cancel, null
  br i1 %uncancelled, label %whole, label %chunk
whole:
  call void %fn(ptr %arg, i64 0, i64 %total, i64 0)
  br label %done
chunk:
  %begin = phi i64 [ 0, %0 ], [ %end, %run ]
  %word = load atomic i32, ptr %cancel monotonic, align 4
  %stop = icmp ne i32 %word, 0
  br i1 %stop, label %done, label %run
run:
  %left = sub i64 %total, %begin
  %length = call i64 @llvm.smin.i64(i64 %left, i64 %grain)
  %end = add i64 %begin, %length
  call void %fn(ptr %arg, i64 %begin, i64 %end, i64 0)
  %more = icmp slt i64 %end, %total
  br i1 %more, label %chunk, label %done
done:
  ret void
}

; Takes chunks until none is left or the launch is cancelled. The order of `next` does not matter, only that each number
; is given out once.
define internal void @onnxc.chunks(ptr %pool, i64 %thread) nounwind {
  %next.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 10
  %job = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 12
  %arg.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 1
  %total.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 2
  %grain.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 3
  %chunks.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 4
  %cancel.at = getelementptr %onnxc.job, ptr %job, i64 0, i32 5
  %fn = load ptr, ptr %job
  %arg = load ptr, ptr %arg.at
  %total = load i64, ptr %total.at
  %grain = load i64, ptr %grain.at
  %chunks = load i64, ptr %chunks.at
  %cancel = load ptr, ptr %cancel.at
  %uncancellable = icmp eq ptr %cancel, null
  br label %take
take:
  %index = atomicrmw add ptr %next.at, i64 1 monotonic
  %there = icmp slt i64 %index, %chunks
  br i1 %there, label %check, label %done
check:
  br i1 %uncancellable, label %run, label %look
look:
  %word = load atomic i32, ptr %cancel monotonic, align 4
  %stop = icmp ne i32 %word, 0
  br i1 %stop, label %done, label %run
run:
  %begin = mul i64 %index, %grain
  %left = sub i64 %total, %begin
  %length = call i64 @llvm.smin.i64(i64 %left, i64 %grain)
  %end = add i64 %begin, %length
  call void %fn(ptr %arg, i64 %begin, i64 %end, i64 %thread)
  br label %take
done:
  ret void
}

; The launch is closed: waits, first spinning and then asleep, until no worker is inside.
define internal void @onnxc.wait_for_workers(ptr %pool) nounwind noinline {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %spin.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 1
  %spin = load i64, ptr %spin.at
  br label %look
look:
  %rounds = phi i64 [ 0, %0 ], [ %rounds.next, %relaxed ], [ 0, %spinning ]
  %until = phi i64 [ 0, %0 ], [ %until, %relaxed ], [ %deadline, %spinning ]
  %state = load atomic i64, ptr %state.at acquire, align 8
  %inside = and i64 %state, 536870911
  %empty = icmp eq i64 %inside, 0
  br i1 %empty, label %done, label %again
again:
  %rounds.next = add i64 %rounds, 1
  %enough = icmp sge i64 %rounds.next, 32
  br i1 %enough, label %time, label %relaxed
relaxed:
  call void @relax()
  br label %look
time:
  %now = call i64 @onnxc.now()
  %deadline = call i64 @onnxc.deadline(i64 %until, i64 %now, i64 %spin)
  %over = icmp sge i64 %now, %deadline
  br i1 %over, label %mark, label %spinning
spinning:
  br label %look
mark:
  ; Says that the caller sleeps; the worker that leaves last then wakes it.
  %marked.before = atomicrmw or ptr %state.at, i64 1073741824 acq_rel
  %marked = or i64 %marked.before, 1073741824
  %still = and i64 %marked, 536870911
  %left = icmp eq i64 %still, 0
  br i1 %left, label %done, label %sleep
sleep:
  call void @park.caller(ptr %pool, i64 %marked)
  %woken = load atomic i64, ptr %state.at acquire, align 8
  %woken.inside = and i64 %woken, 536870911
  %woken.empty = icmp eq i64 %woken.inside, 0
  br i1 %woken.empty, label %done, label %mark
done:
  ret void
}

; ----------------------------------------------------------------------------------------------------- a worker

define internal ptr @onnxc.work(ptr %worker) nounwind {
  %pool = load ptr, ptr %worker
  %number.at = getelementptr %onnxc.worker, ptr %worker, i64 0, i32 1
  %number = load i64, ptr %number.at
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  br label %wait
wait:
  ; A launch that this worker has been in, or that was closed when it looked, is behind it.
  %seen = phi i64 [ 0, %0 ], [ %generation, %closed ], [ %generation, %leave ], [ %generation, %wake.caller ]
  %fresh = call i64 @onnxc.next_generation(ptr %pool, i64 %seen)
  br label %enter
enter:
  %state = phi i64 [ %fresh, %wait ], [ %changed, %try ]
  %generation = lshr i64 %state, 32
  %stop.bit = and i64 %state, 536870912
  %stop = icmp ne i64 %stop.bit, 0
  br i1 %stop, label %done, label %running
running:
  %open.bit = and i64 %state, 2147483648
  %open = icmp ne i64 %open.bit, 0
  br i1 %open, label %try, label %closed
closed:
  br label %wait
try:
  %entered = add i64 %state, 1
  %pair = cmpxchg weak ptr %state.at, i64 %state, i64 %entered acquire monotonic
  %changed = extractvalue { i64, i1 } %pair, 0
  %in = extractvalue { i64, i1 } %pair, 1
  br i1 %in, label %inside, label %enter
inside:
  call void @onnxc.chunks(ptr %pool, i64 %number)
  %before = atomicrmw sub ptr %state.at, i64 1 acq_rel
  br label %leave
leave:
  ; Last out of a launch whose caller sleeps: the low half was one worker and the sleeping bit.
  %low = and i64 %before, 4294967295
  %expected = icmp eq i64 %low, 1073741825
  br i1 %expected, label %wake.caller, label %wait
wake.caller:
  call void @park.wake_caller(ptr %pool)
  br label %wait
done:
  ret ptr null
}

; Waits until the generation is another than `seen`, first spinning and then asleep; returns the state found.
define internal i64 @onnxc.next_generation(ptr %pool, i64 %seen) nounwind {
  %state.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 8
  %spin.at = getelementptr %onnxc.pool, ptr %pool, i64 0, i32 1
  %spin = load i64, ptr %spin.at
  br label %look
look:
  %rounds = phi i64 [ 0, %0 ], [ %rounds.next, %relaxed ], [ 0, %time ], [ 31, %sleep ]
  %until = phi i64 [ 0, %0 ], [ %until, %relaxed ], [ %deadline, %time ], [ %deadline, %sleep ]
  %state = load atomic i64, ptr %state.at acquire, align 8
  %generation = lshr i64 %state, 32
  %same = icmp eq i64 %generation, %seen
  br i1 %same, label %again, label %done
again:
  %rounds.next = add i64 %rounds, 1
  %enough = icmp sge i64 %rounds.next, 32
  br i1 %enough, label %time, label %relaxed
relaxed:
  call void @relax()
  br label %look
time:
  %now = call i64 @onnxc.now()
  %deadline = call i64 @onnxc.deadline(i64 %until, i64 %now, i64 %spin)
  %over = icmp sge i64 %now, %deadline
  br i1 %over, label %sleep, label %look
sleep:
  call void @park.worker(ptr %pool, i64 %seen)
  br label %look
done:
  ret i64 %state
}

; When spinning ends: `spin` after the first look at the clock, which a short wait never takes (`until` is then 0).
define internal i64 @onnxc.deadline(i64 %until, i64 %now, i64 %spin) nounwind {
  %unset = icmp eq i64 %until, 0
  %capped = call i64 @llvm.smin.i64(i64 %spin, i64 4611686018427387903)
  %fresh = add i64 %now, %capped
  %deadline = select i1 %unset, i64 %fresh, i64 %until
  ret i64 %deadline
}

; Nanoseconds of the monotonic clock.
define internal i64 @onnxc.now() nounwind {
  %time = alloca { i64, i64 }
  %clock = load i32, ptr @clock.monotonic
  %r = call i32 @clock_gettime(i32 %clock, ptr %time)
  %seconds = load i64, ptr %time
  %rest.at = getelementptr { i64, i64 }, ptr %time, i64 0, i32 1
  %rest = load i64, ptr %rest.at
  %nanoseconds = mul i64 %seconds, 1000000000
  %sum = add i64 %nanoseconds, %rest
  ret i64 %sum
}
