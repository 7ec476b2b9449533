/*
 * The plain-C baseline of the benchmarks: what a C program reaches through
 * libnats, against the same server and the same stream. Any libnats since 3.4.1.
 *
 *   baseline URL MODE [key=value]   publishes to bench.>, and prints what that took
 *
 * modes
 *   sync         js_Publish: one round trip each
 *   async        js_PublishAsync with an AckHandler, then js_PublishAsyncComplete
 *   async_msgid  the same with a MsgId
 *   evloop       natsOptions_SetEventLoop and our own poll(): no I/O thread, acks
 *                read by the publishing thread
 *   evloop_hdr   the same with a Nats-Msg-Id header
 *   evloop_batch the same, each `batch` messages an atomic batch, which has one ack
 *
 * keys
 *   count=100000  messages          size=128   bytes of payload
 *   window=4096   unacknowledged    subjects=1 taken in turn
 *   batch=0       wait for all acks after so many messages, as a COMMIT does
 *                 (0: once, at the end)
 *   rate=0        messages a second, each sent when its time has come (0: as fast
 *                 as it can)
 *   ca=FILE       TLS, the server's certificate being of that authority
 *   latency=batch the percentiles printed are those of whole batches, or those
 *                 of single publish calls (latency=call)
 *
 * Output: one line of key=value. Times are microseconds, CPU is that of all
 * threads. Any failure ends the program: a run with errors measures nothing.
 */
#define _GNU_SOURCE
#include <nats/nats.h>

#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS		60000
#define MAX_SUBJECTS 10000
#define ID_RANDOM	12			/* as the extension's ids: random characters, */
#define ID_COUNTER	10			/* then a counter */
#define ID_LEN		(ID_RANDOM + ID_COUNTER)
#define SLOT_DIGITS	8

/* What evloop hands to the socket at once: so many messages, or bytes of payload. */
#define FLUSH_MSGS	64
#define FLUSH_BYTES	(16 * 1024)

typedef struct EventLoop
{
	natsConnection *nc;
	natsSock	fd;
	bool		want_read;
	bool		want_write;
	bool		detached;
} EventLoop;

typedef struct Run
{
	const char *url;
	const char *ca_file;
	long		count;
	long		size;
	long		window;
	long		batch;
	long		rate;			/* messages a second */
	long		subjects;
	bool		time_calls;

	char		subject[MAX_SUBJECTS][16];
	char	   *payload;
	char		msg_id[ID_LEN + 1];

	natsConnection *nc;
	jsCtx	   *js;
	natsSubscription *acks;		/* evloop: one subscription on a private inbox */
	char		reply[128];
	size_t		reply_prefix;
	EventLoop	loop;
	uint64_t   *seqs;			/* evloop: stream sequence of each message */
	bool		atomic;			/* one ack for each batch */
	long		acked;
	long		unflushed;		/* messages that the socket has not been given */
} Run;

typedef struct Mode
{
	const char *name;
	void		(*open) (Run *run);
	void		(*publish) (Run *run, long i);
	void		(*drain) (Run *run, long sent);
	void		(*close) (Run *run);
} Mode;

static void
die(const char *what, natsStatus status)
{
	fprintf(stderr, "baseline: %s: %s (%s)\n", what, natsStatus_GetText(status), nats_GetLastError(NULL));
	exit(1);
}

#define CHECK(call) \
	do { \
		natsStatus	status_ = (call); \
		if (status_ != NATS_OK) \
			die(#call, status_); \
	} while (0)

/* ---- message ids ---------------------------------------------------------- */

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static void
id_init(char *id)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	srandom((unsigned) (t.tv_nsec ^ t.tv_sec));
	for (int i = 0; i < ID_RANDOM; i++)
		id[i] = base62[random() % 62];
	memset(id + ID_RANDOM, base62[0], ID_COUNTER);
}

static void
id_next(char *id)
{
	for (int i = ID_LEN - 1; i >= ID_RANDOM; i--)
	{
		const char *digit = strchr(base62, id[i]);

		if (digit[1] != '\0')
		{
			id[i] = digit[1];
			return;
		}
		id[i] = base62[0];
	}
}

/* ---- the connection -------------------------------------------------------- */

static natsOptions *
connection_options(const Run *run)
{
	natsOptions *options = NULL;

	CHECK(natsOptions_Create(&options));
	CHECK(natsOptions_SetURL(options, run->url));
	CHECK(natsOptions_SetAllowReconnect(options, false));
	if (run->ca_file != NULL)
	{
		CHECK(natsOptions_SetSecure(options, true));
		CHECK(natsOptions_LoadCATrustedCertificates(options, run->ca_file));
	}
	return options;
}

/* ---- sync and async: libnats's own JetStream publishers --------------------- */

static void
on_ack(jsCtx *js, natsMsg *msg, jsPubAck *ack, jsPubAckErr *error, void *closure)
{
	(void) js;
	(void) ack;
	(void) closure;
	if (error != NULL)
		die(error->ErrText, error->Err);
	natsMsg_Destroy(msg);
}

static void
library_open(Run *run)
{
	natsOptions *options = connection_options(run);
	jsOptions	js_options;

	CHECK(natsConnection_Connect(&run->nc, options));
	natsOptions_Destroy(options);

	jsOptions_Init(&js_options);
	js_options.PublishAsync.MaxPending = run->window;
	js_options.PublishAsync.StallWait = WAIT_MS;
	js_options.PublishAsync.AckHandler = on_ack;
	CHECK(natsConnection_JetStream(&run->js, run->nc, &js_options));
}

static void
sync_publish(Run *run, long i)
{
	jsPubAck   *ack = NULL;
	jsErrCode	code = 0;

	CHECK(js_Publish(&ack, run->js, run->subject[i % run->subjects],
					 run->payload, (int) run->size, NULL, &code));
	jsPubAck_Destroy(ack);
}

static void
sync_drain(Run *run, long sent)
{
	(void) run;					/* each call has waited already */
	(void) sent;
}

static void
async_publish(Run *run, long i)
{
	CHECK(js_PublishAsync(run->js, run->subject[i % run->subjects],
						  run->payload, (int) run->size, NULL));
}

static void
async_msgid_publish(Run *run, long i)
{
	jsPubOptions options;

	jsPubOptions_Init(&options);
	id_next(run->msg_id);
	options.MsgId = run->msg_id;
	CHECK(js_PublishAsync(run->js, run->subject[i % run->subjects],
						  run->payload, (int) run->size, &options));
}

static void
async_drain(Run *run, long sent)
{
	jsPubOptions options;

	(void) sent;
	jsPubOptions_Init(&options);
	options.MaxWait = WAIT_MS;
	CHECK(js_PublishAsyncComplete(run->js, &options));
}

static void
library_close(Run *run)
{
	jsCtx_Destroy(run->js);
	natsConnection_Destroy(run->nc);
}

/* ---- evloop: everything in the publishing thread ----------------------------- */

static natsStatus
loop_attach(void **user_data, void *arg, natsConnection *nc, natsSock fd)
{
	EventLoop  *loop = arg;

	*loop = (EventLoop) {.nc = nc, .fd = fd, .want_read = true};
	*user_data = loop;
	return NATS_OK;
}

static natsStatus
loop_read(void *user_data, bool add)
{
	EventLoop  *loop = user_data;

	loop->want_read = add;
#if NATS_VERSION_NUMBER >= 0x030903	/* since then the adapter closes the socket */
	if (!add)
		natsConnection_ProcessCloseEvent(&loop->fd);
#endif
	return NATS_OK;
}

static natsStatus
loop_write(void *user_data, bool add)
{
	((EventLoop *) user_data)->want_write = add;
	return NATS_OK;
}

static natsStatus
loop_detach(void *user_data)
{
	((EventLoop *) user_data)->detached = true;
	return NATS_OK;
}

static void
evloop_open(Run *run)
{
	natsOptions *options = connection_options(run);
	natsInbox  *inbox = NULL;

	CHECK(natsOptions_SetEventLoop(options, &run->loop, loop_attach, loop_read, loop_write, loop_detach));
	CHECK(natsOptions_SetSendAsap(options, true));	/* no flusher thread */
	CHECK(natsOptions_SetPingInterval(options, 0));	/* no calls from the timer thread */
	CHECK(natsConnection_Connect(&run->nc, options));
	natsOptions_Destroy(options);

	CHECK(natsInbox_Create(&inbox));
	run->reply_prefix = (size_t) snprintf(run->reply, sizeof(run->reply), "%s.", inbox);
	natsInbox_Destroy(inbox);
	strcpy(run->reply + run->reply_prefix, "*");
	CHECK(natsConnection_SubscribeSync(&run->acks, run->nc, run->reply));
	CHECK(natsSubscription_SetPendingLimits(run->acks, -1, -1));
	run->seqs = calloc((size_t) run->count, sizeof(*run->seqs));
}

/* An ack is {"stream":"S","seq":N}, and its subject ends with the message's slot; that of a batch is its last message's. */
static void
take_ack(Run *run, natsMsg *msg)
{
	const char *data = natsMsg_GetData(msg);
	size_t		len = (size_t) natsMsg_GetDataLength(msg);
	const char *seq = memmem(data, len, "\"seq\":", 6);
	unsigned long slot = strtoul(natsMsg_GetSubject(msg) + run->reply_prefix, NULL, 16);

	if (seq == NULL || slot >= (unsigned long) run->count)
	{
		fprintf(stderr, "baseline: not an ack: %.*s\n", (int) len, data);
		exit(1);
	}
	for (unsigned long i = run->atomic ? slot - slot % (unsigned long) run->batch : slot; i <= slot; i++)
	{
		run->seqs[i] = strtoull(seq + 6, NULL, 10) - (slot - i);
		run->acked++;
	}
}

/* Hands over what is buffered, and takes the acks that arrive within timeout_ms. */
static void
pump(Run *run, int timeout_ms)
{
	EventLoop  *loop = &run->loop;
	struct pollfd fd;
	uint64_t	queued = 0;

	if (loop->want_write)
		natsConnection_ProcessWriteEvent(loop->nc);
	run->unflushed = 0;
	if (loop->detached)
		die("connection", NATS_CONNECTION_CLOSED);

	fd = (struct pollfd) {.fd = loop->fd};
	fd.events = (short) ((loop->want_read ? POLLIN : 0) | (loop->want_write ? POLLOUT : 0));
	if (poll(&fd, 1, timeout_ms) <= 0)
		return;
	if (fd.revents & POLLOUT)
		natsConnection_ProcessWriteEvent(loop->nc);
	if ((fd.revents & ~POLLOUT) == 0)
		return;
	natsConnection_ProcessReadEvent(loop->nc);

	/* NextMsg of an empty queue would format an error message each time */
	natsSubscription_QueuedMsgs(run->acks, &queued);
	for (; queued > 0; queued--)
	{
		natsMsg    *msg = NULL;

		CHECK(natsSubscription_NextMsg(&msg, run->acks, 0));
		take_ack(run, msg);
		natsMsg_Destroy(msg);
	}
}

static void
set_reply(Run *run, long slot)
{
	static const char hex[] = "0123456789abcdef";
	char	   *digit = run->reply + run->reply_prefix;

	for (int shift = 4 * (SLOT_DIGITS - 1); shift >= 0; shift -= 4)
		*digit++ = hex[(slot >> shift) & 15];
	*digit = '\0';
}

static void
evloop_window(Run *run, long sent)
{
	run->unflushed++;
	if (run->unflushed >= FLUSH_MSGS || run->unflushed * run->size >= FLUSH_BYTES)
		pump(run, 0);
	if (sent - run->acked >= run->window)	/* refilled by halves, not one by one */
		while (sent - run->acked >= (run->window + 1) / 2)
			pump(run, WAIT_MS);
}

static void
evloop_publish(Run *run, long i)
{
	set_reply(run, i);
	CHECK(natsConnection_PublishRequest(run->nc, run->subject[i % run->subjects], run->reply,
										run->payload, (int) run->size));
	evloop_window(run, i + 1);
}

static void
evloop_hdr_publish(Run *run, long i)
{
	natsMsg    *msg = NULL;

	set_reply(run, i);
	id_next(run->msg_id);
	CHECK(natsMsg_Create(&msg, run->subject[i % run->subjects], run->reply,
						 run->payload, (int) run->size));
	CHECK(natsMsgHeader_Set(msg, "Nats-Msg-Id", run->msg_id));
	CHECK(natsConnection_PublishMsg(run->nc, msg));
	natsMsg_Destroy(msg);
	evloop_window(run, i + 1);
}

static void
evloop_batch_open(Run *run)
{
	run->atomic = true;
	evloop_open(run);
}

static void
evloop_batch_publish(Run *run, long i)
{
	natsMsg    *msg = NULL;
	char		number[24];
	bool		last = (i + 1) % run->batch == 0 || i + 1 == run->count;

	if (i % run->batch == 0)
		id_next(run->msg_id);
	snprintf(number, sizeof(number), "%ld", i % run->batch + 1);
	set_reply(run, i);
	CHECK(natsMsg_Create(&msg, run->subject[i % run->subjects], last ? run->reply : NULL,
						 run->payload, (int) run->size));
	CHECK(natsMsgHeader_Set(msg, "Nats-Batch-Id", run->msg_id));
	CHECK(natsMsgHeader_Set(msg, "Nats-Batch-Sequence", number));
	if (last)
		CHECK(natsMsgHeader_Set(msg, "Nats-Batch-Commit", "1"));
	CHECK(natsConnection_PublishMsg(run->nc, msg));
	natsMsg_Destroy(msg);
	evloop_window(run, i + 1);
}

static void
evloop_drain(Run *run, long sent)
{
	while (run->acked < sent)
		pump(run, WAIT_MS);
}

static void
evloop_close(Run *run)
{
	for (long i = 0; i < run->count; i++)
		if (run->seqs[i] == 0)
		{
			fprintf(stderr, "baseline: message %ld has no ack\n", i);
			exit(1);
		}
	free(run->seqs);

	/* Closing an event-loop connection that still reads would stall for 500 ms. */
	shutdown(run->loop.fd, SHUT_RDWR);
	while (!run->loop.detached)
		natsConnection_ProcessReadEvent(run->nc);
	natsSubscription_Destroy(run->acks);
	natsConnection_Destroy(run->nc);
#if NATS_VERSION_NUMBER >= 0x030B00	/* since then the library waits for our word */
	natsConnection_ProcessDetachedEvent(run->nc);
#endif
}

static const Mode modes[] = {
	{"sync", library_open, sync_publish, sync_drain, library_close},
	{"async", library_open, async_publish, async_drain, library_close},
	{"async_msgid", library_open, async_msgid_publish, async_drain, library_close},
	{"evloop", evloop_open, evloop_publish, evloop_drain, evloop_close},
	{"evloop_hdr", evloop_open, evloop_hdr_publish, evloop_drain, evloop_close},
	{"evloop_batch", evloop_batch_open, evloop_batch_publish, evloop_drain, evloop_close},
};

/* ---- measuring ------------------------------------------------------------- */

static double
clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

static double
cpu_us(const struct rusage *usage)
{
	return (double) (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e6
		+ (double) (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
}

static int
compare_doubles(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

static void
sleep_until(double time)
{
	double		rest = time - clock_us();

	if (rest > 0)
		usleep((useconds_t) rest);
}

static void
measure(const Mode *mode, Run *run)
{
	struct rusage before;
	struct rusage after;
	double	   *latency = calloc((size_t) run->count, sizeof(*latency));
	long		n = 0;
	double		start;
	double		batch_start;
	double		elapsed;

	mode->open(run);
	getrusage(RUSAGE_SELF, &before);
	start = batch_start = clock_us();
	for (long i = 0; i < run->count; i++)
	{
		if (run->rate > 0)
			sleep_until(start + (double) i * 1e6 / (double) run->rate);
		if (run->time_calls)
		{
			double		call_start = clock_us();

			mode->publish(run, i);
			latency[n++] = clock_us() - call_start;
		}
		else
			mode->publish(run, i);

		if ((i + 1) % run->batch == 0 || i + 1 == run->count)
		{
			mode->drain(run, i + 1);
			if (!run->time_calls)
			{
				double		batch_end = clock_us();

				latency[n++] = batch_end - batch_start;
				batch_start = batch_end;
			}
		}
	}
	elapsed = clock_us() - start;
	getrusage(RUSAGE_SELF, &after);
	mode->close(run);

	qsort(latency, (size_t) n, sizeof(*latency), compare_doubles);
	printf("rate=%.1f cpu_us=%.3f csw=%.5f p50_us=%.2f p99_us=%.2f max_us=%.2f libnats=%s\n",
		   (double) run->count / elapsed * 1e6,
		   (cpu_us(&after) - cpu_us(&before)) / (double) run->count,
		   (double) (after.ru_nvcsw - before.ru_nvcsw) / (double) run->count,
		   latency[n / 2], latency[(long) ((double) n * 0.99)], latency[n - 1], nats_GetVersion());
	free(latency);
}

/* ---- command line ------------------------------------------------------------ */

static int
usage(void)
{
	fprintf(stderr, "usage: baseline URL MODE [key=value ...]\n");
	return 2;
}

static bool
parse_key(Run *run, const char *arg)
{
	const struct
	{
		const char *name;
		long	   *value;
	}			keys[] = {
		{"count=", &run->count},
		{"size=", &run->size},
		{"window=", &run->window},
		{"batch=", &run->batch},
		{"rate=", &run->rate},
		{"subjects=", &run->subjects},
	};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strncmp(arg, keys[i].name, strlen(keys[i].name)) == 0)
		{
			*keys[i].value = atol(arg + strlen(keys[i].name));
			return *keys[i].value >= 0;
		}
	if (strncmp(arg, "ca=", 3) == 0)
	{
		run->ca_file = arg + 3;
		return true;
	}
	run->time_calls = strcmp(arg, "latency=call") == 0;
	return run->time_calls || strcmp(arg, "latency=batch") == 0;
}

int
main(int argc, char **argv)
{
	Run			run = {.count = 100000, .size = 128, .window = 4096, .subjects = 1};
	const Mode *mode = NULL;

	if (argc < 3)
		return usage();
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(argv[2], modes[i].name) == 0)
			mode = &modes[i];
	if (mode == NULL)
		return usage();
	for (int i = 3; i < argc; i++)
		if (!parse_key(&run, argv[i]))
			return usage();
	if (run.count < 1 || run.window < 1 || run.subjects < 1 || run.subjects > MAX_SUBJECTS)
		return usage();

	run.url = argv[1];
	if (run.batch == 0)
		run.batch = run.count;
	run.payload = malloc((size_t) run.size + 1);
	memset(run.payload, 'x', (size_t) run.size);
	for (long i = 0; i < run.subjects; i++)
		snprintf(run.subject[i], sizeof(run.subject[i]), "bench.%ld", i);
	id_init(run.msg_id);

	measure(mode, &run);
	free(run.payload);
	nats_CloseAndWait(2000);
	return 0;
}
