// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The hooks. Each is a line over a function of owner.h or account.h.
 *
 *	sent, received		tc of the link			required
 *	delivered		the root cgroup's ingress	required
 *	refused			the root cgroup's egress	while a quota blocks
 *	socket_created		the root cgroup's sock_create	required
 *	socket_sent, …_received	tracepoints of sockets		optional, 6.3
 *	process_forked, …_exited, …_execed  tracepoints of the scheduler  optional
 *	process_moved		tracepoint of cgroups		optional
 *	forwarded		tracepoint of the devices	optional
 *	open_sockets		iterator over all descriptors	optional, run once
 *
 * What each costs when it is missing is in esimbpf/kernel/programs.py.
 */
#include "vmlinux.h"
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "maps.h"
#include "owner.h"
#include "account.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int sent(struct __sk_buff *skb)
{
	return packet_sent(skb);
}

SEC("tc")
int received(struct __sk_buff *skb)
{
	return packet_received(skb);
}

SEC("cgroup_skb/ingress")
int delivered(struct __sk_buff *skb)
{
	return packet_delivered(skb);
}

SEC("cgroup_skb/egress")
int refused(struct __sk_buff *skb)
{
	return packet_refused(skb);
}

SEC("cgroup/sock_create")
int socket_created(struct bpf_sock *sk)
{
	struct owner *owner = owner_create(sk);

	if (owner) {
		owner->netns_cookie = bpf_get_netns_cookie(sk);
		owner->flags = owner_flags_of(sk->family, sk->type, sk->protocol);
		owner_set(owner, (void *)bpf_get_current_task(), true);
	}
	return 1;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock *sk)
{
	return socket_used(sk, true);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock *sk)
{
	return socket_used(sk, false);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_forked, struct task_struct *parent, struct task_struct *child)
{
	return process_fork(parent, child);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exited, struct task_struct *task)
{
	return process_exit(task);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_execed, struct task_struct *task)
{
	return process_exec(task);
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(process_moved, struct cgroup *to, const char *path, struct task_struct *task)
{
	return process_move(task);
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(forwarded, struct sk_buff *skb)
{
	return packet_forwarded(skb);
}

SEC("iter/task_file")
int open_sockets(struct bpf_iter__task_file *context)
{
	return socket_found(context->task, context->file);
}
