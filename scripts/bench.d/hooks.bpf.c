// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the tracer's hooks are held against: nothing, a lone increment, and the parts that cost the most. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct usage {
	__u64 bytes, packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct usage);
} usages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} slots SEC(".maps");

static __always_inline void increment(struct __sk_buff *skb, __u32 slot)
{
	struct usage *usage = bpf_map_lookup_elem(&usages, &slot);

	if (usage) {
		usage->bytes += skb->len;
		usage->packets++;
	}
}

static __always_inline void increment_of_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u32 *slot = sk ? bpf_sk_storage_get(&slots, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : NULL;

	if (slot)
		increment(skb, *slot & 63);
}

/* One of each kind for each type of program: TYPE is tc (both directions) or cgroup. */
#define VARIANTS(type, section, verdict)						\
	SEC(section) int type##_empty(struct __sk_buff *skb) { return verdict; }	\
	SEC(section) int type##_lone(struct __sk_buff *skb)				\
	{ increment(skb, 3); return verdict; }						\
	SEC(section) int type##_storage(struct __sk_buff *skb)				\
	{ increment_of_socket(skb); return verdict; }					\
	SEC(section) int type##_call(struct __sk_buff *skb)				\
	{ increment(skb, bpf_get_current_task() ? 3 : 4); return verdict; }

VARIANTS(tc, "tc", -1)
VARIANTS(cgroup, "cgroup_skb/ingress", 1)
