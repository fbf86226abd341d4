/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traffic for the benchmark:
 *
 *	traffic flood ADDRESS COUNT	200-byte IPv4 packets of UDP, as fast as it can; prints the nanoseconds it took
 *	traffic sink			takes them
 *	traffic push ADDRESS SECONDS	bulk TCP; prints bytes per second
 *	traffic pull			takes it
 *	traffic many ADDRESS COUNT BUSY	COUNT processes with a socket each, that have sent once; BUSY go on each second
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 16];

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int connected(int type, const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9999) };
	int fd = socket(AF_INET, type, 0);

	inet_pton(AF_INET, address, &to.sin_addr);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		exit(1);
	return fd;
}

static int bound(int type)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(9999) };
	int fd = socket(AF_INET, type, 0), yes = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)))
		exit(1);
	return fd;
}

static void one_of_many(const char *address, int busy)
{
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = connected(SOCK_DGRAM, address);
	send(fd, buffer, 101, 0);
	while (busy) {
		sleep(1);
		send(fd, buffer, 101, 0);
	}
	pause();
}

int main(int argc, char **argv)
{
	long long begun = now_ns(), bytes = 0;
	long i, count = argc > 3 ? atol(argv[3]) : 0;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 4 && !strcmp(argv[1], "flood")) {
		fd = connected(SOCK_DGRAM, argv[2]);
		for (i = 0; i < count; i++)
			send(fd, buffer, 172, 0);
		printf("%lld\n", now_ns() - begun);
	} else if (argc == 2 && !strcmp(argv[1], "sink")) {
		fd = bound(SOCK_DGRAM);
		for (;;)
			recv(fd, buffer, sizeof(buffer), 0);
	} else if (argc == 4 && !strcmp(argv[1], "push")) {
		fd = connected(SOCK_STREAM, argv[2]);
		while (now_ns() - begun < count * 1000000000LL)
			bytes += send(fd, buffer, sizeof(buffer), 0);
		printf("%.0f\n", bytes * 1e9 / (now_ns() - begun));
	} else if (argc == 2 && !strcmp(argv[1], "pull")) {
		fd = bound(SOCK_STREAM);
		listen(fd, 1);
		for (;;) {
			int call = accept(fd, NULL, NULL);

			while (recv(call, buffer, sizeof(buffer), 0) > 0)
				;
			close(call);
		}
	} else if (argc == 5 && !strcmp(argv[1], "many")) {
		for (i = 0; i < count; i++)
			if (!fork())
				one_of_many(argv[2], i < atol(argv[4]));
		puts("ready");
		fflush(stdout);
		pause();
	} else {
		return 2;
	}
	return 0;
}
