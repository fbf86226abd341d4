/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a packet weighs, and whose it is.
 *
 * Sent packets are counted once, at tc egress, in the row that they belong to:
 * the link's total is the sum of the rows.
 *
 * Received packets are counted twice: at tc ingress for the link, and where
 * they reach a socket for its owner. What reached no socket and did not go on
 * to another interface was the kernel's own (pings, resets, time-wait, what a
 * firewall drops). Two things come between the hooks and are counted so that
 * the reader can tell: IP fragments, which lose headers when they are put
 * together and may wait for each other, and forwarding.
 */
#ifndef ESIMBPF_ACCOUNT_H
#define ESIMBPF_ACCOUNT_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include "vmlinux.h"
#include "maps.h"
#include "owner.h"
#include "packet.h"
#include "verdict.h"
#include "answer.h"

static __always_inline void count(__u32 link, __u32 slot, struct weight weight,
				  enum direction direction)
{
	struct usage *usage = usage_at(link, slot);

	if (!usage)
		return;
	if (direction == SENT) {
		usage->tx_bytes += weight.bytes;
		usage->tx_packets += weight.packets;
	} else {
		usage->rx_bytes += weight.bytes;
		usage->rx_packets += weight.packets;
	}
}

/*
 * Adds what the segments of an offload packet bring along beside the first.
 * Drivers that merge in hardware may leave gso_segs unset; then it follows
 * from the payload.
 */
static __noinline int weigh_segments(struct __sk_buff *skb, __u32 offset, struct weight *weight)
{
	struct headers headers = {};
	__u32 segments = skb->gso_segs, size = skb->gso_size, payload;

	if (!weight || walk_headers(skb, offset, &headers))
		return 0;
	if (!segments) {
		payload = weight->bytes - headers.bytes;
		segments = size ? (payload + size - 1) / size : 1;
	}
	if (segments > 1) {
		weight->packets = segments;
		weight->bytes += (__u64)(segments - 1) * headers.bytes;
	}
	if (skb->len > LARGEST_IPV6_PAYLOAD)
		weight->bytes -= weight->packets * jumbo_header_bytes(skb, offset);
	return 0;
}

static __always_inline struct weight frame_weight(struct __sk_buff *skb, __u32 offset)
{
	struct weight weight = {
		.bytes = skb->len > offset ? skb->len - offset : 0,
		.packets = 1,
	};

	return weight;
}

/* A frame of the link that carries no IP: counted apart, since nobody bills it. */
static __noinline int count_other(struct __sk_buff *skb, __u32 link, __u32 header_len, int direction)
{
	count(link, SLOT_OTHER, frame_weight(skb, header_len), direction);
	return TC_ACT_UNSPEC;
}

/*
 * The bytes of the IP packet by its own header, where the frame may be longer:
 * Ethernet pads short frames, and packet sockets send what they like.
 */
static __noinline __u32 ip_length(struct __sk_buff *skb, __u32 offset, __u32 frame_bytes)
{
	__u8 head[6];
	__u32 length = 0;

	if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)))
		return frame_bytes;
	if ((head[0] >> 4) == 4)
		length = head[2] << 8 | head[3];
	else if ((head[0] >> 4) == 6 && (head[4] | head[5]))
		length = (head[4] << 8 | head[5]) + 40;
	return length && length < frame_bytes ? length : frame_bytes;
}

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define NO_ECHO 0xffffffff

/* The key in echo_senders of an ICMP echo request (or reply) at `offset`, or NO_ECHO. */
static __noinline __u32 echo_key(struct __sk_buff *skb, __u32 offset, __u32 request)
{
	struct headers headers = {};
	__u8 icmp[6];
	__u32 six;

	if (walk_headers(skb, offset, &headers) ||
	    bpf_skb_load_bytes(skb, offset + headers.bytes, icmp, sizeof(icmp)))
		return NO_ECHO;
	six = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (headers.protocol != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return NO_ECHO;
	if (icmp[0] != (six ? (request ? ICMPV6_ECHO_REQUEST : ICMPV6_ECHO_REPLY) :
			      (request ? ICMP_ECHO : ICMP_ECHO_REPLY)))
		return NO_ECHO;
	return six << 16 | icmp[4] << 8 | icmp[5];
}

static __noinline int note_echo_sender(struct __sk_buff *skb, __u32 offset, struct owner *owner)
{
	__u32 key = echo_key(skb, offset, 1);

	if (owner && key != NO_ECHO) {
		struct echo_sender sender = { .slot = owner->slot, .generation = owner->generation };

		echo_sender_set(key, &sender);
	}
	return 0;
}

/* The slot that an owner's packets count under; its own may be another process's by now. */
static __always_inline __u32 slot_counted(const struct owner *owner, const struct slot *state)
{
	return state && state->generation == owner->generation ? owner->slot : SLOT_UNATTRIBUTED;
}

/* --- sent ------------------------------------------------------------------ */

/*
 * Multipath TCP's sockets on the wire are made by the kernel for the one that
 * the process holds, and are its owner's from their first packet on. NULL if
 * this is none such, or its owner is not known.
 */
static __noinline struct owner *owner_of_subflow(struct __sk_buff *skb)
{
	struct bpf_sock *subflow = skb->sk;
	struct mptcp_sock *held;
	struct owner *theirs, *owner;

	if (!bpf_core_type_exists(struct mptcp_sock) ||
	    !bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock))
		return NULL;
	if (!subflow)
		return NULL;
	held = bpf_skc_to_mptcp_sock(subflow);
	if (!held)
		return NULL;
	theirs = bpf_sk_storage_get(&owners, held, 0, 0);
	if (!theirs)
		return NULL;
	owner = owner_create(subflow);
	if (owner)
		*owner = *theirs;
	return owner;
}

/* A packet whose socket has no owner yet. */
static __noinline __u32 unowned_sender(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk, *listener;
	struct owner *owner;
	struct sock *sk;

	if (!socket)
		return skb->ingress_ifindex ? SLOT_FORWARDED : SLOT_KERNEL;

	/* A listener's answer to a SYN comes from a request, not yet a socket. */
	listener = bpf_get_listener_sock(socket);
	if (listener) {
		owner = owner_get(listener);
		if (!owner)
			return SLOT_UNATTRIBUTED;
		return slot_counted(owner, slot_at(owner->slot));
	}
	owner = owner_of_subflow(skb);
	if (owner)
		return slot_counted(owner, slot_at(owner->slot));
	if (!bpf_sk_fullsock(socket))
		return SLOT_KERNEL; /* time-wait */

	sk = kernel_socket(skb);
	if (!READ(sk, sk_socket))
		return SLOT_UNATTRIBUTED; /* closed before the start, and still flushing */
	if (!READ(READ(sk, sk_socket), file))
		return SLOT_KERNEL; /* made inside the kernel: nobody holds a descriptor */

	/* A packet socket's first packet comes before any hook has seen it. */
	if (!sends_now(sk))
		return SLOT_UNATTRIBUTED;
	owner = owner_create(socket);
	if (!owner)
		return SLOT_UNATTRIBUTED;
	owner->netns_cookie = READ(READ(sk, __sk_common.skc_net.net), net_cookie);
	owner->flags = owner_flags_of(READ(sk, __sk_common.skc_family), READ(sk, sk_type),
				      READ(sk, sk_protocol));
	owner_set(owner, bpf_get_current_task_btf(), true);
	return owner->slot;
}

/*
 * The kernel has added up what the segments' headers come to, the link layer's
 * included (qdisc_pkt_len_init() in net/core/dev.c).
 */
static __always_inline struct weight weigh_sent(struct __sk_buff *skb, __u32 offset)
{
	struct weight weight = { .packets = skb->gso_segs };

	if (!weight.packets) {
		weight = frame_weight(skb, offset);
		if (skb->gso_size)
			weigh_segments(skb, offset, &weight);
	} else {
		weight.bytes = skb->wire_len - weight.packets * offset;
		if (skb->len > LARGEST_IPV6_PAYLOAD)
			weight.bytes -= weight.packets * jumbo_header_bytes(skb, offset);
	}
	return weight;
}

/* Whether what is dropped is sent again: nobody sends datagrams again. */
static __always_inline bool is_sent_again(struct __sk_buff *skb)
{
	struct bpf_sock *socket = skb->sk;

	if (!socket)
		return false;
	socket = bpf_sk_fullsock(socket);
	return socket && socket->protocol == IPPROTO_TCP;
}

/* The bytes of the last packet that an offload packet becomes on the link, if its sender may send the others alone. */
static __noinline __u64 last_segment(struct __sk_buff *skb, __u32 offset, const struct weight *weight)
{
	__u64 others, headers;

	if (!weight)
		return 0;
	others = weight->packets - 1;
	if (!others || skb->wire_len < skb->len || !is_sent_again(skb))
		return weight->bytes;
	headers = (skb->wire_len - skb->len) / others - offset;
	return weight->bytes - others * (skb->gso_size + headers);
}

/* The verdict on a packet to be sent; BLOCKED and TOO_LARGE ones do not cross. */
static __always_inline int judge_sent(struct __sk_buff *skb, __u32 link, __u32 slot, __u32 offset,
				      const struct weight *weight)
{
	__u32 way = link | SENT_BIT;

	if (watched.open_services)
		way |= service_bit(skb, offset, 1);
	return judge(way, slot, weight->bytes, weight->packets > 1 ? last_segment(skb, offset, weight) : weight->bytes);
}

static __always_inline int packet_sent(struct __sk_buff *skb)
{
	__u32 link = link_find(skb->ifindex), offset, slot;
	struct weight weight;
	struct bpf_sock *socket;
	struct owner *owner = NULL;
	struct slot *state;

	if (link == NO_LINK)
		return TC_ACT_UNSPEC;
	offset = link_at(link)->header_len;
	if (!is_ip(skb)) {
		__u32 behind = ip_behind_vlan(skb, offset);

		if (!behind)
			return count_other(skb, link, offset, SENT);
		offset = behind;
	}

	weight = weigh_sent(skb, offset);
	socket = skb->sk;
	if (socket)
		owner = owner_get(socket);
	if (!owner) {
		slot = unowned_sender(skb);
	} else {
		state = slot_at(owner->slot);
		if (state && may_be_shared(owner, state)) {
			claim_sender(skb, owner);
			state = slot_at(owner->slot);
		}
		if (owner->flags & OWNER_PACKET)
			weight.bytes = ip_length(skb, offset, weight.bytes);
		if (owner->flags & OWNER_SHARED_DELIVERY)
			note_echo_sender(skb, offset, owner);
		slot = slot_counted(owner, state);
	}
	if (has_quotas(slot)) {
		int verdict = judge_sent(skb, link, slot, offset, &weight);

		if (verdict == BLOCKED && always_passes(skb, offset, slot, 1)) {
			use_sent_of_all(slot, link, weight.bytes, QUOTAS_PER_PROCESS);
		} else if (verdict == BLOCKED) {
			count_blocked(link, slot, weight.bytes, weight.packets, SENT);
			return become_reset(skb, offset) ? bpf_redirect(skb->ifindex, BPF_F_INGRESS) : TC_ACT_SHOT;
		}
		if (verdict == TOO_LARGE) {
			if (!is_sent_again(skb))
				count_blocked(link, slot, weight.bytes, weight.packets, SENT);
			return TC_ACT_SHOT;
		}
		if (verdict == AT_RATE)
			limit_window(skb, offset, slot, link);
	}
	count(link, slot, weight, SENT);
	return TC_ACT_UNSPEC;
}

/* --- received -------------------------------------------------------------- */

/* A fragment came in: note what its reassembly will take away. */
static __noinline int count_fragment(struct __sk_buff *skb, __u32 link, __u32 offset, __u64 bytes)
{
	struct headers headers = {};
	struct weight weight = { .bytes = bytes, .packets = 1 };
	struct weight lost = { .bytes = 0, .packets = 1 };

	if (walk_headers(skb, offset, &headers) || !headers.fragment)
		return 0;
	link_at(link)->fragments_seen = 1;
	count(link, SLOT_FRAGMENT, weight, RECEIVED);
	lost.bytes = headers.fragment_bytes;
	if (headers.first_fragment) {
		/* Of the first only IPv6's fragment header goes. */
		lost.packets = 0;
		lost.bytes = skb->protocol == bpf_htons(ETH_P_IPV6) ? 8 : 0;
	}
	count(link, SLOT_FRAGMENT_HEADER, lost, RECEIVED);
	return 0;
}

/* By the header alone, so that most packets go by with one look. */
static __always_inline bool may_be_fragment(struct __sk_buff *skb, __u32 offset)
{
	void *end = (void *)(long)skb->data_end;
	__u8 *ip = (void *)(long)skb->data + (offset & 0x3f);

	if ((void *)(ip + 8) > end)
		return true;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (ip[6] & 0x3f) | ip[7];
	return ip[6] == IPPROTO_FRAGMENT || is_ipv6_extension(ip[6]);
}

static __always_inline int packet_received(struct __sk_buff *skb)
{
	__u32 link = link_find(skb->ifindex), offset;
	struct weight weight;

	/* Multicast that this host sent and hears itself never crossed the link. */
	if (link == NO_LINK || skb->pkt_type == PACKET_LOOPBACK)
		return TC_ACT_UNSPEC;
	if (settings.enforces && is_our_reset(skb))
		return TC_ACT_UNSPEC;
	offset = link_at(link)->header_len;
	if (!is_ip(skb)) {
		__u32 behind = ip_behind_vlan(skb, offset);

		if (!behind)
			return count_other(skb, link, offset, RECEIVED);
		offset = behind;
	}

	weight = frame_weight(skb, offset);
	if (skb->gso_size) {
		weigh_segments(skb, offset, &weight);
	} else {
		if (skb->len <= ETH_ZLEN)
			weight.bytes = ip_length(skb, offset, weight.bytes);
		if (may_be_fragment(skb, offset))
			count_fragment(skb, link, offset, weight.bytes);
	}
	count(link, SLOT_LINK, weight, RECEIVED);
	if (some_of_everybody())
		charge_everybody(link, weight.bytes);
	if (settings.enforces && watched.resets_wanted)
		reset_receiver(skb, link, offset);
	return TC_ACT_UNSPEC;
}

/*
 * Raw sockets and multicast: one packet goes to every socket that listens, one
 * right after the other on the same CPU, as clones that share their buffer.
 * The first is counted. `sequence` counts the link's packets on this CPU, so a
 * later packet in a buffer used again is told apart.
 */
static __noinline bool first_delivery(struct __sk_buff *skb, __u32 link)
{
	struct delivery *last = delivery_of(link);
	struct usage *usage = usage_at(link, SLOT_LINK);
	__u64 head = (__u64)READ((struct sk_buff *)skb, head);

	if (!last || !usage)
		return true;
	if (last->head == head && last->sequence == usage->rx_packets)
		return false;
	last->head = head;
	last->sequence = usage->rx_packets;
	return true;
}

/* A reply that raw sockets receive is his who sent the request. */
static __noinline __u32 echo_receiver(struct __sk_buff *skb, __u32 otherwise)
{
	__u32 key = echo_key(skb, 0, 0);
	struct echo_sender *sender;
	struct slot *state;

	if (key == NO_ECHO)
		return otherwise;
	sender = echo_sender_find(key);
	if (!sender)
		return otherwise;
	state = slot_at(sender->slot);
	return state && state->generation == sender->generation ? sender->slot : otherwise;
}

/* The packet's IP header, at data here. */
static __always_inline bool is_multicast(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	__u8 *ip = (void *)(long)skb->data;

	if (skb->pkt_type != PACKET_HOST)
		return true;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return (void *)(ip + 20) > end || ip[16] >= 224;
	return (void *)(ip + 40) > end || ip[24] == 0xff;
}

/* A raw socket for TCP or UDP only listens in: those have sockets of their own. */
static __always_inline bool has_transport_socket(struct __sk_buff *skb)
{
	__u8 protocol = 0;

	bpf_skb_load_bytes(skb, skb->protocol == bpf_htons(ETH_P_IP) ? 9 : 6, &protocol, 1);
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

#define NO_SLOT 0xffffffff

/* A received packet's socket has no owner. NO_SLOT if it is not to be counted. */
static __noinline __u32 unowned_receiver(struct __sk_buff *skb)
{
	struct sock *sk = kernel_socket(skb);
	struct socket *socket = READ(sk, sk_socket);

	if (READ(READ(sk, __sk_common.skc_net.net), net_cookie) != watched.netns_cookie)
		return NO_SLOT; /* another namespace's interface of the same index */
	if (READ(sk, sk_type) == SOCK_RAW && has_transport_socket(skb))
		return NO_SLOT;
	/*
	 * The kernel's own, whose packets are what nobody took; or a raw socket
	 * that hears already, while it is being made (inet_create() in
	 * net/ipv4/af_inet.c), what is meant for others.
	 */
	if (socket && !READ(socket, file))
		return NO_SLOT;
	return SLOT_UNATTRIBUTED;
}

/* Put together from fragments? Where IP's reassembly left its mark. */
static __noinline int count_reassembled(struct __sk_buff *skb, __u32 link, struct weight *weight)
{
	void *cb = (void *)skb + bpf_core_field_offset(struct sk_buff, cb);
	__u16 size = 0;

	if (!weight)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		size = READ((struct inet_skb_parm *)cb, frag_max_size);
	else
		size = READ((struct inet6_skb_parm *)cb, frag_max_size);
	if (size)
		count(link, SLOT_REASSEMBLED, *weight, RECEIVED);
	return 0;
}

static __always_inline int judge_delivered(struct __sk_buff *skb, __u32 link, __u32 slot, const struct weight *weight)
{
	__u32 way = link;

	if (watched.open_services)
		way |= service_bit(skb, 0, 0);
	/* What was merged on its way in counts as one packet: what of it is dropped has been paid for. */
	return judge(way, slot, weight->bytes, weight->bytes);
}

static __always_inline int packet_delivered(struct __sk_buff *skb)
{
	__u32 link = link_find(skb->ifindex), slot;
	struct weight weight;
	struct bpf_sock *socket = skb->sk;
	struct owner *owner;

	if (link == NO_LINK || skb->pkt_type == PACKET_LOOPBACK || !socket)
		return 1;
	if (settings.enforces && is_our_reset(skb))
		return 1;
	owner = owner_get(socket);
	if (!owner)
		owner = owner_of_subflow(skb);
	if (owner) {
		if (owner->netns_cookie != watched.netns_cookie)
			return 1;
		if (owner->flags & OWNER_SHARED_DELIVERY) {
			if (has_transport_socket(skb) || !first_delivery(skb, link))
				return 1;
		} else if ((owner->flags & OWNER_DATAGRAM) && is_multicast(skb)) {
			if (!first_delivery(skb, link))
				return 1;
		}
		slot = slot_counted(owner, slot_at(owner->slot));
		if (owner->flags & OWNER_SHARED_DELIVERY)
			slot = echo_receiver(skb, slot);
	} else {
		slot = unowned_receiver(skb);
		if (slot == NO_SLOT || !first_delivery(skb, link))
			return 1;
	}

	weight = frame_weight(skb, 0);
	if (skb->gso_size)
		weigh_segments(skb, 0, &weight);
	if (link_at(link)->fragments_seen)
		count_reassembled(skb, link, &weight);
	count(link, SLOT_TAKEN, weight, RECEIVED);
	count(link, slot, weight, RECEIVED);
	if (has_quotas(slot)) {
		int verdict = judge_delivered(skb, link, slot, &weight);

		if ((verdict == BLOCKED && !always_passes(skb, 0, slot, 0)) || verdict == TOO_LARGE) {
			count_blocked(link, slot, weight.bytes, weight.packets, RECEIVED);
			if (verdict == BLOCKED)
				want_reset(skb, slot);
			return 0;
		}
	}
	return 1;
}

/* --- refused --------------------------------------------------------------- */

/*
 * Datagrams of a blocked process, before they become a link's: here the call
 * that sends fails with EPERM, where at tc it would not learn of it. TCP's
 * packets go on to be answered there.
 */
static __always_inline int packet_refused(struct __sk_buff *skb)
{
	__u32 link = link_find(skb->ifindex), slot, way;
	struct bpf_sock *socket = skb->sk;
	struct task_struct *task;
	struct owner *owner;

	if (link == NO_LINK || !watched.quota_epoch || !socket)
		return 1;
	socket = bpf_sk_fullsock(socket);
	if (!socket)
		return 1;
	owner = owner_get(socket);
	if (!owner || owner->netns_cookie != watched.netns_cookie || socket->protocol == IPPROTO_TCP)
		return 1;
	task = bpf_get_current_task_btf();
	if (task->tgid != owner->tgid)
		return 1; /* inherited or passed on: whose it is now is found where it is counted */
	slot = slot_counted(owner, slot_at(owner->slot));
	way = link;
	if (watched.open_services)
		way |= service_bit(skb, 0, 1);
	if (!is_blocked(slot, way) || always_passes(skb, 0, slot, 1))
		return 1;
	count_blocked(link, slot, skb->len, 1, SENT);
	return 0;
}

/* --- forwarded -------------------------------------------------------------- */

/* Offload packets that go on are still whole: what weigh_segments() does, by kernel pointers. */
static __noinline int weigh_forwarded(struct sk_buff *skb, const __u8 *ip, struct weight *weight)
{
	struct skb_shared_info *shared = (void *)(READ(skb, head) + READ(skb, end));
	__u32 segments = READ(shared, gso_segs), size = READ(shared, gso_size), headers;
	__u8 version = 0, protocol = 0, offset = 0;
	__u16 payload = 0;

	if (!weight || !size)
		return 0;
	bpf_probe_read_kernel(&version, 1, ip);
	if ((version >> 4) == 4) {
		headers = (version & 0xf) * 4;
		bpf_probe_read_kernel(&protocol, 1, ip + 9);
	} else {
		headers = 40;
		bpf_probe_read_kernel(&protocol, 1, ip + 6);
		bpf_probe_read_kernel(&payload, 2, ip + 4);
		if (protocol == IPPROTO_HOPOPTS && !payload) {
			bpf_probe_read_kernel(&protocol, 1, ip + headers);
			ip += JUMBO_HEADER_BYTES;
			weight->bytes -= JUMBO_HEADER_BYTES;
		}
	}
	if (protocol == IPPROTO_TCP) {
		bpf_probe_read_kernel(&offset, 1, ip + headers + 12);
		headers += (offset >> 4) * 4;
	} else {
		headers += 8;
	}
	if (!segments)
		segments = (weight->bytes - headers + size - 1) / size;
	if (segments > 1) {
		weight->packets = segments;
		weight->bytes += (__u64)(segments - 1) * headers;
	}
	return 0;
}

/*
 * A packet that came in through a link is queued at another interface: it was
 * routed or bridged on. Counted once even if it goes to several.
 */
static __noinline int count_forwarded(struct sk_buff *skb, __u32 link)
{
	__u16 network = READ(skb, network_header), protocol = READ(skb, protocol);
	const __u8 *head = READ(skb, head), *ip = head + network;
	struct weight weight = { .packets = 1 };
	struct weight headers = {};
	struct delivery *last = delivery_of(link);
	struct usage *usage = usage_at(link, SLOT_LINK);
	__u8 fragment[2] = {}, version = 0;

	if (!last || !usage)
		return 0;
	if (last->head == (__u64)head && last->sequence == usage->rx_packets)
		return 0;
	last->head = (__u64)head;
	last->sequence = usage->rx_packets;

	weight.bytes = READ(skb, len) - (ip - READ(skb, data));
	weigh_forwarded(skb, ip, &weight);
	count(link, SLOT_FORWARDED, weight, RECEIVED);

	if (!link_at(link)->fragments_seen)
		return 0;
	bpf_probe_read_kernel(&version, 1, ip);
	if (protocol == bpf_htons(ETH_P_IP)) {
		bpf_probe_read_kernel(fragment, 2, ip + 6);
		if (!((fragment[0] & 0x3f) | fragment[1]))
			return 0;
		headers.packets = ((fragment[0] & 0x1f) | fragment[1]) != 0;
		headers.bytes = headers.packets * (version & 0xf) * 4;
	} else {
		bpf_probe_read_kernel(fragment, 1, ip + 6);
		if (fragment[0] != IPPROTO_FRAGMENT)
			return 0;
		bpf_probe_read_kernel(fragment, 2, ip + 42);
		headers.packets = (fragment[0] | (fragment[1] & 0xf8)) != 0;
		headers.bytes = headers.packets ? 48 : 8;
	}
	count(link, SLOT_FORWARDED_FRAGMENT, weight, RECEIVED);
	count(link, SLOT_FORWARDED_FRAGMENT, headers, SENT);
	return 0;
}

static __always_inline int packet_forwarded(struct sk_buff *skb)
{
	__u32 link;

	if (!skb->skb_iif || skb->dev->ifindex == skb->skb_iif)
		return 0;
	link = link_find(skb->skb_iif);
	if (link == NO_LINK ||
	    skb->dev->nd_net.net->net_cookie != watched.netns_cookie)
		return 0;
	return count_forwarded(skb, link);
}

#endif
