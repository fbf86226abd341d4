"""All that asks the kernel: programs and maps, cgroups, links, network namespaces.

Only this package imports libbpf and bcc or speaks netlink; what it hands on are the plain values of `model`.
"""
