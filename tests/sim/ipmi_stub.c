/* The kernel's IPMI driver with a BMC behind it: preloaded into a process, it answers for the path
 * $IPMI_STUB_DEVICE.  The n-th question is answered by the n-th line of the file $IPMI_STUB_ANSWERS,
 * or the last one:
 *   reading WATTS STATE   a DCMI power reading (state in hexadecimal: 40 is active)
 *   code HEX              this completion code alone
 *   short                 a reading that ends early
 *   silent                nothing
 *   late WATTS            a reading that comes only with the next question, before its answer
 *   event WATTS           something from the event queue, and then a reading
 *   EIO                   the driver refuses the question
 * $IPMI_STUB_REFUSE, an errno, is what opening gives instead of the device.
 * The descriptor is an eventfd, so that poll and close are the real ones. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <asm/ioctl.h>
#include <linux/ipmi.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct queued {
	int type;
	long msgid;
	unsigned char data[32];
	int length;
};

static struct queued queue[64];
static int first, count, held, asked, device = -1;

static int is_ours(const char *path)
{
	const char *ours = getenv("IPMI_STUB_DEVICE");

	return ours && !strcmp(path, ours);
}

static int open_stub(void)
{
	const char *refuse = getenv("IPMI_STUB_REFUSE");

	if (refuse) {
		errno = atoi(refuse);
		return -1;
	}
	first = count = held = 0;
	return device = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE);
}

static int open_by(const char *name, const char *path, int flags, mode_t mode)
{
	int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);

	return is_ours(path) ? open_stub() : real(path, flags, mode);
}

#define OPEN(name)                                      \
	int name(const char *path, int flags, ...)      \
	{                                               \
		va_list rest;                           \
		mode_t mode;                            \
		va_start(rest, flags);                  \
		mode = va_arg(rest, mode_t);            \
		va_end(rest);                           \
		return open_by(#name, path, flags, mode); \
	}
OPEN(open)
OPEN(open64)

static void tell(int messages)
{
	uint64_t one = 1;

	while (messages-- > 0)
		if (write(device, &one, sizeof(one)) < 0)
			abort();
}

static struct queued *add(int type, long msgid)
{
	struct queued *message = &queue[(first + count++) % 64];

	message->type = type;
	message->msgid = msgid;
	message->length = 0;
	return message;
}

static void add_reading(long msgid, int watts, int state)
{
	struct queued *message = add(IPMI_RESPONSE_RECV_TYPE, msgid);
	/* code, group, watts now, least, most, mean, time stamp, 60 000 ms, state */
	unsigned char data[19] = {0, 0xDC, watts & 0xFF, watts >> 8, 1, 0, 2, 0, 1, 0,
				  0, 0, 0, 0, 0x60, 0xEA, 0, 0, state};

	memcpy(message->data, data, sizeof(data));
	message->length = sizeof(data);
}

static int is_question(const struct ipmi_req *request)
{
	static const unsigned char expected[4] = {0xDC, 1, 0, 0};
	const struct ipmi_system_interface_addr *to = (void *)request->addr;

	return request->addr_len >= sizeof(*to) && to->addr_type == IPMI_SYSTEM_INTERFACE_ADDR_TYPE &&
	       to->channel == IPMI_BMC_CHANNEL && to->lun == 0 && request->msg.netfn == 0x2C &&
	       request->msg.cmd == 2 && request->msg.data_len == 4 &&
	       !memcmp(request->msg.data, expected, 4);
}

static void read_line(char *line, int size)
{
	FILE *file = fopen(getenv("IPMI_STUB_ANSWERS"), "r");
	int number = 0;

	if (!file)
		abort();
	while (number <= asked && fgets(line, size, file))
		number++;
	fclose(file);
	asked++;
}

static int send_command(const struct ipmi_req *request)
{
	char line[64] = "", word[16] = "";
	unsigned a = 0, b = 0x40;

	if (!is_question(request)) {
		errno = EINVAL;
		return -1;
	}
	read_line(line, sizeof(line));
	sscanf(line, "%15s", word);
	tell(held); /* what was late comes now */
	held = 0;
	if (!strcmp(word, "EIO")) {
		errno = EIO;
		return -1;
	}
	if (!strcmp(word, "code")) {
		struct queued *message = add(IPMI_RESPONSE_RECV_TYPE, request->msgid);

		sscanf(line, "%*s %x", &a);
		message->data[0] = a;
		message->length = 1;
		tell(1);
	} else if (!strcmp(word, "late")) {
		sscanf(line, "%*s %u", &a);
		add_reading(request->msgid, a, b);
		held++;
	} else if (strcmp(word, "silent")) {
		sscanf(line, "%*s %u %x", &a, &b);
		if (!strcmp(word, "event")) {
			add(IPMI_ASYNC_EVENT_RECV_TYPE, request->msgid);
			tell(1);
		}
		add_reading(request->msgid, a, b);
		if (!strcmp(word, "short"))
			queue[(first + count - 1) % 64].length = 9;
		tell(1);
	}
	return 0;
}

static int receive(struct ipmi_recv *into)
{
	struct queued *message = &queue[first];
	uint64_t one;

	if (read(device, &one, sizeof(one)) < 0)
		return -1; /* EAGAIN, as the driver's */
	first = (first + 1) % 64;
	count--;
	into->recv_type = message->type;
	into->msgid = message->msgid;
	into->msg.netfn = 0x2D;
	into->msg.cmd = 2;
	if (into->msg.data_len < message->length)
		abort();
	memcpy(into->msg.data, message->data, message->length);
	into->msg.data_len = message->length;
	return 0;
}

int ioctl(int fd, unsigned long number, ...)
{
	static int (*real)(int, unsigned long, ...);
	va_list rest;
	void *argument;

	va_start(rest, number);
	argument = va_arg(rest, void *);
	va_end(rest);
	if (!real)
		real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	if (fd != device || device < 0)
		return real(fd, number, argument);
	if ((unsigned)number == IPMICTL_SEND_COMMAND)
		return send_command(argument);
	if ((unsigned)number == IPMICTL_RECEIVE_MSG_TRUNC)
		return receive(argument);
	errno = ENOTTY;
	return -1;
}
