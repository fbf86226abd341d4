/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that lives for as long as it takes to send an amount of bytes:
 *
 *	sender ADDRESS PORT AMOUNT	in UDP datagrams of at most 1000 bytes
 *	sender fd DESCRIPTOR AMOUNT	the same on a connected socket that it inherits
 *
 * Run under many names, it is many programs.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	static const char content[1000];
	struct sockaddr_in to = { .sin_family = AF_INET };
	long left;
	int fd;

	if (argc != 4)
		return 2;
	if (strcmp(argv[1], "fd") == 0) {
		fd = atoi(argv[2]);
	} else {
		to.sin_port = htons(atoi(argv[2]));
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 ||
		    connect(fd, (struct sockaddr *)&to, sizeof(to)))
			return 1;
	}
	for (left = atol(argv[3]); left > 0; left -= sizeof(content)) {
		size_t size = left < (long)sizeof(content) ? left : sizeof(content);

		if (send(fd, content, size, 0) != (ssize_t)size)
			return 1;
	}
	return 0;
}
