/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To be preloaded (LD_PRELOAD): for the program the machine has slept for
 * ESIMBPF_TEST_AHEAD_S seconds. CLOCK_MONOTONIC, which waiting goes by, stands
 * still meanwhile, and the others are ahead.
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
	const char *ahead = getenv("ESIMBPF_TEST_AHEAD_S");
	int result = syscall(SYS_clock_gettime, clock, time);

	if (!result && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME))
		time->tv_sec += atol(ahead);
	return result;
}
