/* SPDX-License-Identifier: MIT */

/*
 * mqttload: a cheap MQTT load generator that also meters the broker. One thread, one epoll, raw packets of
 * MQTT 3.1.1 (or 5.0 with --v5), no library. It prints one line of JSON a run.
 *
 * What keeps it cheap, so that the broker is the bottleneck:
 *   - publishers encode up to 64 KiB of packets into one scratch buffer and hand it to the kernel with one send();
 *   - subscribers recv() up to 256 KiB at a time and send all the acks of one such batch with one send();
 *   - the clock is read once a batch, not once a message;
 *   - payload bytes past the stamp are never looked at, and of large messages not even copied out of the kernel.
 *
 * Every payload begins with a 16 byte stamp (send time in ns, publisher, sequence number), from which latency,
 * loss, duplicates and reordering are computed. Loss is not hidden by --cap: it only holds back publishers while
 * so many deliveries are outstanding, where QoS 0 has no acknowledgement that would; a delivery that never comes
 * is counted, and three seconds without progress end the run.
 *
 * With --pid the broker is metered too: CPU time of the whole process, threads that ended included, from its CPU
 * clock (nanoseconds, the same count that /proc/PID/stat rounds to ticks), the user and system split from
 * /proc/PID/stat, and memory from /proc/PID/status.
 */

#include "mqttload/mqttload.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

struct load_options opt = {
    .host = "127.0.0.1",
    .label = "",
    .ids = "load",
    .port = 1883,
    .pubs = 1,
    .subs = 1,
    .size = 64,
    .window = 100,
    .hold = 1.0,
    .parallel = 1,
};
struct tally tally;
int epfd;
struct conn *pubs, *subs;
uint8_t *scratch, *recv_buf, *payload_tail;

static void usage(FILE *to)
{
    fprintf(
        to,
        "mqttload [options]: MQTT load, one line of JSON\n"
        "  --host A --port P --pid N      broker address; its process, to meter it\n"
        "  --label TEXT --v5              label in the JSON; MQTT 5 instead of 3.1.1\n"
        "  --ids TEXT                     what client ids begin with\n"
        "  --poll-us N                    look for input every N us instead of being woken\n"
        " message flow (the default mode)\n"
        "  --topics 1:1|fan-in|fan-out    fan-in: wildcard subscribers\n"
        "  --pubs N --subs N --qos Q      or --pub-qos Q --sub-qos Q\n"
        "  --size BYTES                   payload, at least %d\n"
        "  --count N | --duration S       a publisher\n"
        "  --warmup N                     messages a publisher before measuring\n"
        "  --window N                     unacknowledged messages a publisher (QoS > 0)\n"
        "  --cap N                        deliveries outstanding in all, 0: only the socket holds "
        "back\n"
        "  --burst N                      messages a publisher's turn, 0: up to 64 KiB\n"
        "  --rate R                       messages/s a publisher, 0: as fast as possible\n"
        "  --persistent                   sessions outlive their connections (3.1.1)\n"
        "  --away                         the same, and subscribers go before anything is "
        "published\n"
        " other modes\n"
        "  --conns N [--filters M] [--touch] [--hold S]   memory of connections, subscriptions\n"
        "  --retain N                     memory of retained messages, then read back\n"
        "  --connects N [--parallel P]    CONNECT, CONNACK, DISCONNECT\n"
        "  --gauge                        speed of this machine just now, no broker\n",
        STAMP_SIZE);
}

enum {
    O_HOST = 256,
    O_PORT,
    O_PID,
    O_LABEL,
    O_IDS,
    O_V5,
    O_POLL,
    O_TOPICS,
    O_PUBS,
    O_SUBS,
    O_QOS,
    O_PUB_QOS,
    O_SUB_QOS,
    O_SIZE,
    O_COUNT,
    O_DURATION,
    O_WARMUP,
    O_WINDOW,
    O_CAP,
    O_BURST,
    O_RATE,
    O_PERSISTENT,
    O_AWAY,
    O_CONNS,
    O_FILTERS,
    O_TOUCH,
    O_HOLD,
    O_RETAIN,
    O_CONNECTS,
    O_PARALLEL,
    O_GAUGE,
    O_HELP
};

static const struct option long_options[] = {
    { "host", 1, 0, O_HOST },
    { "port", 1, 0, O_PORT },
    { "pid", 1, 0, O_PID },
    { "label", 1, 0, O_LABEL },
    { "ids", 1, 0, O_IDS },
    { "v5", 0, 0, O_V5 },
    { "poll-us", 1, 0, O_POLL },
    { "topics", 1, 0, O_TOPICS },
    { "pubs", 1, 0, O_PUBS },
    { "subs", 1, 0, O_SUBS },
    { "qos", 1, 0, O_QOS },
    { "pub-qos", 1, 0, O_PUB_QOS },
    { "sub-qos", 1, 0, O_SUB_QOS },
    { "size", 1, 0, O_SIZE },
    { "count", 1, 0, O_COUNT },
    { "duration", 1, 0, O_DURATION },
    { "warmup", 1, 0, O_WARMUP },
    { "window", 1, 0, O_WINDOW },
    { "cap", 1, 0, O_CAP },
    { "burst", 1, 0, O_BURST },
    { "rate", 1, 0, O_RATE },
    { "persistent", 0, 0, O_PERSISTENT },
    { "away", 0, 0, O_AWAY },
    { "conns", 1, 0, O_CONNS },
    { "filters", 1, 0, O_FILTERS },
    { "touch", 0, 0, O_TOUCH },
    { "hold", 1, 0, O_HOLD },
    { "retain", 1, 0, O_RETAIN },
    { "connects", 1, 0, O_CONNECTS },
    { "parallel", 1, 0, O_PARALLEL },
    { "gauge", 0, 0, O_GAUGE },
    { "help", 0, 0, O_HELP },
    { 0, 0, 0, 0 },
};

static void parse_options(int argc, char **argv)
{
    int o;
    while ((o = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        switch (o) {
        case O_HOST:
            opt.host = optarg;
            break;
        case O_PORT:
            opt.port = atoi(optarg);
            break;
        case O_PID:
            opt.pid = atoi(optarg);
            break;
        case O_LABEL:
            opt.label = optarg;
            break;
        case O_IDS:
            opt.ids = optarg;
            break;
        case O_V5:
            opt.v5 = true;
            break;
        case O_POLL:
            opt.poll_us = atoi(optarg);
            break;
        case O_TOPICS:
            if (!strcmp(optarg, "1:1"))
                opt.topology = ONE_TO_ONE;
            else if (!strcmp(optarg, "fan-in"))
                opt.topology = FAN_IN;
            else if (!strcmp(optarg, "fan-out"))
                opt.topology = FAN_OUT;
            else
                die("--topics 1:1, fan-in or fan-out");
            break;
        case O_PUBS:
            opt.pubs = atoi(optarg);
            break;
        case O_SUBS:
            opt.subs = atoi(optarg);
            break;
        case O_QOS:
            opt.pub_qos = opt.sub_qos = atoi(optarg);
            break;
        case O_PUB_QOS:
            opt.pub_qos = atoi(optarg);
            break;
        case O_SUB_QOS:
            opt.sub_qos = atoi(optarg);
            break;
        case O_SIZE:
            opt.size = atoi(optarg);
            break;
        case O_COUNT:
            opt.count = atol(optarg);
            break;
        case O_DURATION:
            opt.duration = atof(optarg);
            break;
        case O_WARMUP:
            opt.warmup = atol(optarg);
            break;
        case O_WINDOW:
            opt.window = atoi(optarg);
            break;
        case O_CAP:
            opt.cap = atol(optarg);
            break;
        case O_BURST:
            opt.burst = atoi(optarg);
            break;
        case O_RATE:
            opt.rate = atof(optarg);
            break;
        case O_AWAY:
            opt.away = true;
            opt.persistent = true;
            break;
        case O_PERSISTENT:
            opt.persistent = true;
            break;
        case O_CONNS:
            opt.conns = atoi(optarg);
            break;
        case O_FILTERS:
            opt.filters = atoi(optarg);
            break;
        case O_TOUCH:
            opt.touch = true;
            break;
        case O_HOLD:
            opt.hold = atof(optarg);
            break;
        case O_RETAIN:
            opt.retain = atol(optarg);
            break;
        case O_CONNECTS:
            opt.connects = atol(optarg);
            break;
        case O_PARALLEL:
            opt.parallel = atoi(optarg);
            break;
        case O_GAUGE:
            opt.gauge = true;
            break;
        case O_HELP:
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    if (optind < argc || opt.size < STAMP_SIZE || opt.window < 1 || opt.window > 65535 ||
        opt.pub_qos < 0 || opt.pub_qos > 2 || opt.sub_qos < 0 || opt.sub_qos > 2 || opt.pubs < 1 ||
        (opt.persistent && opt.v5) || opt.subs < 0 || opt.parallel < 1 || opt.conns < 0) {
        usage(stderr);
        exit(2);
    }
    if (!opt.count && !opt.duration)
        opt.count = 100000;
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    struct rlimit rl;
    if (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
    prctl(PR_SET_TIMERSLACK, 1000ul); /* sleep to 1 us, not 50 */
    epfd = epoll_create1(EPOLL_CLOEXEC);
    scratch = xalloc(SCRATCH_SIZE);
    recv_buf = xalloc(RECV_SIZE);
    payload_tail = xalloc((size_t)opt.size);
    memset(payload_tail, 'z', (size_t)opt.size);
    if (opt.gauge)
        run_gauge();
    else if (opt.connects)
        run_connects();
    else if (opt.retain)
        run_retain();
    else if (opt.conns)
        run_idle();
    else
        run_flow();
    return tally.protocol_errors || tally.closed ? 3 : 0;
}
