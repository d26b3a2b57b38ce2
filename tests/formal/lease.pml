/* One run, two nodes, two reapers: grant, renewal, expiry at both ends, finish.
 *
 * Checked (see check.py): the assertions; with -D LIVE the property `ends`, under weak fairness.
 * -D MACRO makes a deliberately broken variant that the checker must refuse:
 *   NO_EPOCH_IN_FINISH     a result is committed for whatever attempt is current
 *   RENEWED_BEFORE_COMMIT  the promise leaves before the renewal is durable
 *   VALID_FROM_RECEIPT     the agent counts a lease from when Renewed arrives, not from when it asked
 *   NO_WATCHDOG            nobody enforces a lease's end while the agent is dead or frozen
 *   NO_RECHECK_IN_REAPER   the reaper trusts what it read before its UPDATE
 *   RESTART_VALID_ANEW     a restarted agent holds its leases valid from now on
 *   NO_PERMIT              a container starts before the queue has acknowledged that its grant was taken
 *   GRANT_BEFORE_COMMIT    Grant leaves before the claim is durable
 *   NO_REAPER              (liveness only) nobody takes back what a dead agent held
 *
 * Time is counted down, so that the state space is finite. A message may take any time, and what is on its
 * way when a connection ends is lost: so a cut, in either direction, is a delay that ends so. A result sent by
 * the unary way may arrive any number of times, at any time. An agent's clock may lose one tick in the life of
 * one renewal (bounded drift); nothing waits for an agent, everything waits for its watchdog.
 */

#define NODES 2
#define EPOCHS 2 /* the retry budget: a run that used it ends */
#define AFFLICTED 0
#define PEER 1
#define LOST 3   /* ticks from a committed renewal to the end of the session at the queue */
#define VALID 1  /* ticks from sending a heartbeat to the kill at the node; + 1 of drift < LOST */

mtype = { HELLO, BEAT, ACCEPT, RELEASE, FINISH, WELCOME, STOP, RENEWED, GRANT, CONFIRM };
mtype = { WAITING, LEASED, DONE };

/* The queue's database. */
mtype state = WAITING;
byte epoch;
byte holder;
byte seen[NODES];      /* ticks until the session is lost */
bool accepted;
bool heard;            /* a heartbeat came since the grant */

/* Connections. */
chan up[NODES] = [1] of { mtype, byte, byte };   /* what, epoch, result */
chan down[NODES] = [2] of { mtype, byte };       /* what, epoch */
bool linked[NODES];    /* the agent has a call */
bool opened[NODES];    /* the replica has committed the session */
bool welcomed[NODES];  /* the agent knows */
byte late[NODES];      /* epoch of a failure on its way by the unary FinishLeases */

/* The nodes: what is on disk (journal, deadlines), what runs, and what an agent has in memory. */
byte held[NODES];      /* epoch of the lease in the journal, 0: none */
byte result[NODES];    /* on disk or to be read from the engine: 0 none, 1 succeeded, 2 failed */
bool permitted[NODES]; /* its container may be started: the queue has acknowledged the acceptance */
bool started[NODES];   /* its container was started */
bool box[NODES];       /* its container runs */
byte valid[NODES];     /* ticks until the kill, by the node's clock */
bool slow[NODES];      /* the drift of that countdown is used up */
byte sent[NODES];      /* the same, counted from the heartbeat that is not acknowledged */
bool sent_slow[NODES];
bool waits[NODES];     /* a heartbeat is not acknowledged */
bool alive[NODES] = true;

/* What must hold, seen from outside. */
bool committed[EPOCHS + 1];
byte newest;           /* greatest epoch that ever ran */
bool calm;             /* LIVE: no more faults */

#ifdef LIVE
/* Fewer faults, which end; from then on time passes only when nobody has anything to do. */
#define faulty (!calm)
#define rare false
#define REAPERS 1
#define may_pass (!calm || timeout)
#else
#define faulty true
#define rare true
#define REAPERS 2
#define may_pass true
#endif
#define idle(a) (held[a] == 0)
#define other(a) (1 - a)

inline run_again() {
    holder = 0; accepted = false; heard = false;
    if
    :: epoch < EPOCHS -> state = WAITING
    :: else -> state = DONE
    fi
}

/* Compare-and-set on the epoch. */
inline commit_result(e, r) {
    if
#ifdef NO_EPOCH_IN_FINISH
    :: state == LEASED ->
#else
    :: state == LEASED && epoch == e ->
#endif
        assert(!committed[e]); /* at most one result of each attempt, and with it one of the run */
        committed[e] = true;
        if
        :: r == 1 -> state = DONE; holder = 0
        :: else -> run_again()
        fi
    :: else
    fi
}

inline take(e) {
    if
    :: state == LEASED && epoch == e -> accepted = true; heard = false
    :: else
    fi
}

inline renew(a) {
    heard = (state == LEASED && holder == a + 1 && !accepted);
    seen[a] = LOST
}

inline forget(a) {
    held[a] = 0; permitted[a] = false; result[a] = 0; started[a] = false; box[a] = false
}

#define can_start(a) (alive[a] && held[a] > 0 && !started[a] && result[a] == 0 && valid[a] > 0)
#define missed_its_start(a) (held[a] > 0 && !started[a] && result[a] == 0 && valid[a] == 0)

inline start(a) {
    started[a] = true; box[a] = true;
    assert(!box[other(a)]);   /* no two containers of one run */
    assert(held[a] > newest); /* epochs rise */
    newest = held[a]
}

inline exit(a) {
    box[a] = false;
    if :: result[a] = 1 :: result[a] = 2 fi
}

inline restart(a) {
    alive[a] = true;
#ifdef RESTART_VALID_ANEW
    if
    :: held[a] > 0 -> valid[a] = VALID; slow[a] = false
    :: else
    fi
#endif
}

inline permit(a, e) {
    if
    :: e > 0 && held[a] == e -> permitted[a] = true
    :: else
    fi
}

inline hold_until(a) {
#ifdef VALID_FROM_RECEIPT
    valid[a] = VALID; slow[a] = false;
#else
    valid[a] = sent[a]; slow[a] = sent_slow[a];
#endif
    sent[a] = 0; sent_slow[a] = false; waits[a] = false
}

#define say(a, m, e, r) up[a]!m, e, r

/* What is in flight when a call ends reaches nobody. */
inline unlink(a) {
    linked[a] = false; opened[a] = false; welcomed[a] = false; waits[a] = false; sent[a] = 0; sent_slow[a] = false;
    do :: nempty(up[a]) -> up[a]?_, _, _ :: else -> break od;
    do :: nempty(down[a]) -> down[a]?_, _ :: else -> break od;
}

proctype Node(byte a) provided (state != DONE) {
    byte e;
    do
    /* A session opens with the inventory. */
    :: atomic { alive[a] && !linked[a] ->
        linked[a] = true; sent[a] = VALID; sent_slow[a] = false; waits[a] = true;
        say(a, HELLO, held[a], result[a]) }
    :: atomic { welcomed[a] && !waits[a] && sent[a] == 0 && (valid[a] < VALID || slow[a]) && nfull(up[a]) ->
        sent[a] = VALID; sent_slow[a] = false; waits[a] = true;
        say(a, BEAT, held[a], 0) }
    :: atomic { linked[a] && down[a]?[WELCOME, e] -> down[a]?WELCOME, e;
        welcomed[a] = true; hold_until(a); permit(a, e); e = 0 }
    :: atomic { linked[a] && down[a]?[STOP, e] -> down[a]?STOP, e;
        welcomed[a] = true; hold_until(a); forget(a); e = 0 }
    :: atomic { linked[a] && down[a]?[RENEWED, e] -> down[a]?RENEWED, e;
        hold_until(a); permit(a, e); e = 0 }
    :: atomic { linked[a] && down[a]?[GRANT, e] && nfull(up[a]) -> down[a]?GRANT, e;
        if
        :: idle(a) && valid[a] > 0 -> held[a] = e; say(a, ACCEPT, e, 0);
#ifdef NO_PERMIT
           permitted[a] = true
#endif

        :: else -> say(a, RELEASE, e, 0)
        fi; e = 0 }
    :: atomic { linked[a] && down[a]?[CONFIRM, e] -> down[a]?CONFIRM, e;
        if
        :: held[a] == e && result[a] > 0 -> forget(a)
        :: else
        fi; e = 0 }
    /* The attempt. */
    :: atomic { permitted[a] && can_start(a) -> start(a) }
    :: atomic { box[a] -> exit(a) }
    /* What never got to start within its lease is a failure of the node. */
    :: atomic { alive[a] && missed_its_start(a) -> result[a] = 2 }
    :: atomic { welcomed[a] && held[a] > 0 && result[a] > 0 && nfull(up[a]) -> say(a, FINISH, held[a], result[a]) }
    :: atomic { rare && alive[a] && result[a] == 2 -> late[a] = held[a] }
    :: atomic { rare && welcomed[a] && held[a] > 0 && !started[a] && result[a] == 0 && nfull(up[a]) ->
        say(a, RELEASE, held[a], 0); forget(a) }
    /* Faults. */
    :: atomic { rare && linked[a] -> unlink(a) } /* LIVE: only with its agent */
    :: atomic { faulty && alive[a] -> alive[a] = false; permitted[a] = false; unlink(a);
        if
        :: held[a] == 0 -> valid[a] = 0; slow[a] = false
        :: else
        fi }
    :: atomic { !alive[a] -> restart(a) }
    od
}

/* A queue replica serving one stream. Its answer takes any time; one that never leaves, because the replica
 * died after its commit, is one that is still on its way when the connection ends. */
proctype Replica(byte a) provided (state != DONE) {
    byte e, r;
    do
    :: atomic { nfull(down[a]) && up[a]?[HELLO, e, r] -> up[a]?HELLO, e, r;
        renew(a); opened[a] = true;
        if
        :: state == LEASED && holder == a + 1 && epoch != e -> run_again()
        :: else
        fi;
        if
        :: e == 0 || (state == LEASED && holder == a + 1 && epoch == e) -> down[a]!WELCOME, e; take(e)
        :: else -> down[a]!STOP, 0
        fi; e = 0; r = 0 }
    :: atomic { nfull(down[a]) && up[a]?[BEAT, e, r] -> up[a]?BEAT, e, r;
#ifdef RENEWED_BEFORE_COMMIT
        if
        :: renew(a)
        :: faulty -> skip /* the commit fails; Renewed has left */
        fi;
#else
        renew(a);
#endif
        if /* Renewed.lost_lease_ids */
        :: e > 0 && !(state == LEASED && epoch == e) -> down[a]!STOP, 0
        :: else -> down[a]!RENEWED, e
        fi; e = 0; r = 0 }
    :: atomic { up[a]?[ACCEPT, e, r] -> up[a]?ACCEPT, e, r;
        take(e); e = 0; r = 0 }
    :: atomic { state == LEASED && holder == a + 1 && !accepted && heard -> run_again() }
    :: atomic { up[a]?[RELEASE, e, r] -> up[a]?RELEASE, e, r;
        if
        :: state == LEASED && epoch == e -> run_again()
        :: else
        fi; e = 0; r = 0 }
    :: atomic { nfull(down[a]) && up[a]?[FINISH, e, r] -> up[a]?FINISH, e, r;
        commit_result(e, r); down[a]!CONFIRM, e; e = 0; r = 0 }
    /* A result by the unary way: late, and more than once. */
    :: atomic { late[a] > 0 ->
        commit_result(late[a], 2);
        if :: late[a] = 0 :: rare fi }
    /* The dispatcher: claim, commit, then Grant. */
    :: atomic { state == WAITING && linked[a] && opened[a] && nfull(down[a]) && seen[a] > 1 ->
        if
        :: epoch++; state = LEASED; holder = a + 1;
           heard = false;
           down[a]!GRANT, epoch
#ifdef GRANT_BEFORE_COMMIT
        :: faulty -> down[a]!GRANT, epoch + 1 /* the commit fails */
#endif
        fi }
    od
}

/* The other node: its messages take no time, but its agent may die. */
proctype Peer() provided (state != DONE) {
    do
    :: atomic { alive[PEER] && (valid[PEER] < VALID || seen[PEER] < LOST) ->
        valid[PEER] = VALID; seen[PEER] = LOST;
        if
        :: held[PEER] > 0 && !(state == LEASED && epoch == held[PEER]) -> forget(PEER)
        :: state == LEASED && holder == PEER + 1 && held[PEER] == 0 -> run_again()
        :: else
        fi }
    :: atomic { state == WAITING && alive[PEER] && idle(PEER) && seen[PEER] > 1 ->
        epoch++; state = LEASED; holder = PEER + 1; held[PEER] = epoch }
    :: atomic { can_start(PEER) -> start(PEER) }
    :: atomic { box[PEER] -> exit(PEER) }
    :: atomic { alive[PEER] && missed_its_start(PEER) -> result[PEER] = 2 }
    :: atomic { alive[PEER] && held[PEER] > 0 && result[PEER] > 0 ->
        commit_result(held[PEER], result[PEER]); forget(PEER) }
    :: atomic { faulty && alive[PEER] -> alive[PEER] = false;
        if :: held[PEER] == 0 -> valid[PEER] = 0 :: else fi }
    :: atomic { rare && !alive[PEER] -> restart(PEER) } /* LIVE: it never comes back */
    od
}

#ifndef NO_REAPER
/* Two of them: load, decide, apply; what it read is checked again in the UPDATE. */
active [REAPERS] proctype Reaper() provided (state != DONE) {
    byte e;
    do
    :: atomic { state == LEASED && seen[holder - 1] == 0 -> e = epoch };
       atomic {
        if
#ifdef NO_RECHECK_IN_REAPER
        :: state == LEASED -> run_again()
#else
        :: state == LEASED && epoch == e && seen[holder - 1] == 0 -> run_again()
#endif
        :: else
        fi; e = 0 }
    od
}
#endif

#ifndef NO_WATCHDOG
/* Acts whether the agent lives or not; time does not pass it by (see Clock). */
active proctype Watchdog() provided (state != DONE) {
    do
    :: atomic { box[0] && valid[0] == 0 -> box[0] = false; result[0] = 2 }
    :: atomic { box[1] && valid[1] == 0 -> box[1] = false; result[1] = 2 }
    od
}
#define overdue(a) (box[a] && valid[a] == 0)
#else
#define overdue(a) false
#endif

inline pass(a) {
    if
    :: seen[a] > 0 -> seen[a]--
    :: else
    fi;
    if
    :: rare && a == AFFLICTED && (valid[a] > 0 || sent[a] > 0) && !(valid[a] > 0 && slow[a]) && !(sent[a] > 0 && sent_slow[a]) ->
        slow[a] = valid[a] > 0; sent_slow[a] = sent[a] > 0
    :: if
       :: valid[a] > 0 -> valid[a]--
       :: else
       fi;
       if
       :: sent[a] > 0 -> sent[a]--
       :: else
       fi;
       if
       :: valid[a] == 0 -> slow[a] = false
       :: else
       fi;
       if
       :: sent[a] == 0 -> sent_slow[a] = false
       :: else
       fi
    fi
}

active proctype Clock() provided (state != DONE) {
    do
    :: atomic { may_pass && !overdue(0) && !overdue(1) -> pass(0); pass(1) }
#ifdef LIVE
    :: atomic { !calm -> calm = true }
#endif
    od
}

init {
    atomic {
        run Node(AFFLICTED); run Replica(AFFLICTED); run Peer()
    }
}

#ifdef LIVE
/* Once the faults have ended, the run ends. */
ltl ends { <> calm -> <> (state == DONE) }
#endif
