"""`towline up`: PostgreSQL, registry, queue and agent on one machine, each its own process.

    layout          what lies where in the data folder
    processes       processes told apart beyond their pid, and how they are ended
    state           what is written down for the next supervisor
    program         what a supervised program is, and one running process of it
    system_user     PostgreSQL as another user where we are root
    postgres        the cluster
    services        how registry, queue and agent are run
    default_queue   the queue that a first start makes
    probes          how the services are
    summary         what there is to say once all are up
    supervisor      the life of it all
    leftovers       after a crash, and `towline down`
    going_on        runs whose containers go on without an agent
    detached        the supervisor in the background

The supervisor works on Linux: it reads /proc.
"""
