#!/usr/bin/env bash
# Several machines on one: each node is a set of Linux namespaces with a hostname, a network interface,
# shared memory and processors of its own, joined to the others by a switch (a bridge).
#
#   tests/cluster/cluster.sh NODES [--rate RATE] [--cpus LIST/LIST/...] COMMAND...
#
# runs COMMAND on node1, whose mpirun starts ranks on all nodes:
#
#   tests/cluster/cluster.sh 2 --rate 1gbit mpirun --host node1:1,node2:1 build/choir generate
#   tests/cluster/cluster.sh 4 bash
#
#   --rate RATE   of each node's link, both ways, as tc writes it: 100mbit, 1gbit, 10gbit. Default: as
#                 fast as the kernel is
#   --cpus ...    the processors of each node. Default: those of the machine are dealt out in turn
#
# Inside of it:
#
#   cluster.sh hosts RANKS        what mpirun's --host takes for so many ranks on each node
#   cluster.sh on K COMMAND...    runs a command on node K
#   cluster.sh rate RATE          another rate of all links
#   cluster.sh cut K | join K     takes node K off the network, and puts it back
#
# Needs no root where the kernel lets users make namespaces. The machine's own network is not touched:
# the switch has a namespace too, so that clusters run side by side. All of it lives as long as COMMAND:
# the kernel ends what is left of it, whichever way COMMAND or this script end. Exit status: COMMAND's;
# 77 with a message where namespaces are not allowed.
set -euo pipefail

self=$(realpath "${BASH_SOURCE[0]}")
subnet=10.77.0

fail() {
    echo "cluster: $*" >&2
    exit 2
}

skip() {
    echo "cluster: skipped: $*" >&2
    exit 77
}

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$self" >&2
    exit 2
}

# ---- Inside -------------------------------------------------------------------------------------

# The processes that hold the nodes, in their order, and each one's processors.
read -ra holders <<<"${CHOIR_CLUSTER_HOLDERS:-}"
IFS=/ read -ra cpus <<<"${CHOIR_CLUSTER_CPUS:-}"

check_node() {
    case ${1:-} in
    '' | *[!0-9]*) fail "expected the number of a node, found \"${1:-}\"" ;;
    esac
    [ "$1" -ge 1 ] && [ "$1" -le ${#holders[@]} ] ||
        fail "expected a node from 1 to ${#holders[@]}, found $1"
}

# on NODE COMMAND...
on() {
    local node=$1
    shift
    exec nsenter --target "${holders[node - 1]}" --net --uts --ipc --mount --wd="$PWD" -- \
        taskset -c "${cpus[node - 1]}" "$@"
}

# Commands about the network are run where the switch is.
at_switch() {
    nsenter --target "$CHOIR_CLUSTER_SWITCH" --net -- "$@"
}

# shape COMMAND-PREFIX... DEVICE RATE. A burst of what the link carries in 2 ms, and not less than two of
# the largest packets.
shape() {
    local device=${*: -2:1} rate=${*: -1} bits burst
    set -- "${@:1:$#-2}"
    case $rate in
    *gbit) bits=${rate%gbit}000000000 ;;
    *mbit) bits=${rate%mbit}000000 ;;
    *kbit) bits=${rate%kbit}000 ;;
    *) fail "--rate: expected a number and kbit, mbit or gbit, found \"$rate\"" ;;
    esac
    case $bits in
    *[!0-9]*) fail "--rate: expected a whole number and kbit, mbit or gbit, found \"$rate\"" ;;
    esac
    burst=$((bits / 8 / 500))
    [ "$burst" -ge 131072 ] || burst=131072
    "$@" tc qdisc replace dev "$device" root tbf rate "$rate" burst "$burst" limit $((4 * burst + 1048576))
}

shape_all() {
    local node
    for node in $(seq ${#holders[@]}); do
        shape nsenter --target "${holders[node - 1]}" --net -- eth0 "$1"
        shape at_switch "port$node" "$1"
    done
}

inside() {
    local what=$1
    shift
    [ ${#holders[@]} -gt 0 ] || fail "$what: only inside of a cluster"
    case $what in
    hosts)
        seq -f "node%.0f:${1:-1}" -s , ${#holders[@]}
        ;;
    on)
        check_node "${1:-}"
        on "$@"
        ;;
    rate)
        [ $# -eq 1 ] || usage
        shape_all "$1"
        ;;
    cut | join)
        check_node "${1:-}"
        at_switch ip link set "port$1" "$([ "$what" = cut ] && echo down || echo up)"
        ;;
    esac
}

# How Open MPI reaches a node: as by ssh, a host's name and the words of a command for its shell.
agent() {
    local node=${1#node}
    check_node "$node"
    shift
    on "$node" sh -c "$*"
}

# ---- Making one ---------------------------------------------------------------------------------

# deal_cpus NODES: the processors that this script may use
deal_cpus() {
    local all=() first last part node list=''
    IFS=, read -ra parts <<<"$(taskset -pc $$ | sed 's/.*: //')"
    for part in "${parts[@]}"; do
        first=${part%-*} last=${part#*-}
        for cpu in $(seq "$first" "$last"); do
            all+=("$cpu")
        done
    done
    local each=$((${#all[@]} / $1))
    [ "$each" -gt 0 ] || each=1
    for node in $(seq 0 $(($1 - 1))); do
        local mine=()
        for i in $(seq 0 $((each - 1))); do
            mine+=("${all[(node * each + i) % ${#all[@]}]}")
        done
        list+=/$(IFS=, && echo "${mine[*]}")
    done
    echo "${list#/}"
}

# What a node's holder does: waits, in namespaces of its own, until they are furnished.
hold() {
    hostname "node$1"
    # What ranks of another node map or name cannot be met here.
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    ip link set lo up
    echo held
    exec sleep infinity
}

# add_node NODE
add_node() {
    local node=$1 holder held
    exec {told}< <(exec unshare --net --uts --ipc --mount -- "$self" hold "$node")
    holder=$!
    read -r held <&"$told" && [ "$held" = held ] || fail "node$node cannot be made"
    holders+=("$holder")
    ip link add "port$node" type veth peer name eth0 netns "$holder"
    ip link set "port$node" master switch up
    # Open MPI meets the congestion control that Linux has unless told, whatever this machine's is.
    nsenter --target "$holder" --net -- sh -ec "
        ip address add $subnet.$node/24 dev eth0
        ip link set eth0 up
        ip route change $subnet.0/24 dev eth0 proto kernel scope link src $subnet.$node congctl cubic ||
            echo 'cluster: no cubic in this kernel; TCP is as this machine has it' >&2"
}

# In the namespaces of the switch, as the first process of a process namespace.
build() {
    local n_nodes=$1 rate=$2 node names
    export CHOIR_CLUSTER_CPUS=$3
    shift 3
    IFS=/ read -ra cpus <<<"$CHOIR_CLUSTER_CPUS"
    holders=()
    # Names of the nodes, in a file without a name of its own.
    names=$(mktemp)
    { echo "127.0.0.1 localhost" && seq "$n_nodes" | sed "s/.*/$subnet.& node&/"; } >"$names"
    mount --bind "$names" /etc/hosts
    rm "$names"
    ip link set lo up
    ip link add switch type bridge
    ip link set switch up
    # A switch is not a firewall, and does not do its work on the nodes' processors.
    { echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables; } 2>/dev/null || true
    for node in $(seq "$n_nodes"); do
        add_node "$node"
    done
    export CHOIR_CLUSTER_HOLDERS="${holders[*]}" CHOIR_CLUSTER_SWITCH=$$
    [ "$rate" = none ] || shape_all "$rate"
    # How Open MPI finds its way; ranks may be more than the processors.
    export OMPI_MCA_plm=rsh OMPI_MCA_plm_rsh_agent="$self" OMPI_MCA_btl=tcp,self,vader
    export OMPI_MCA_btl_tcp_if_include=eth0 OMPI_MCA_oob_tcp_if_include=eth0
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    export OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    # Not exec: the first process of a process namespace is spared by signals that it does not handle.
    local status=0
    "$self" on 1 "$@" || status=$?
    exit "$status"
}

outside() {
    local n_nodes=$1 rate=none cpus='' namespaces=(--net --mount --pid --fork --kill-child --mount-proc)
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --rate | --cpus)
            [ $# -gt 1 ] || fail "$1: expected a value"
            if [ "$1" = --rate ]; then rate=$2; else cpus=$2; fi
            shift 2
            ;;
        --)
            shift
            break
            ;;
        -*) usage ;;
        *) break ;;
        esac
    done
    [ $# -gt 0 ] || usage
    [ "$n_nodes" -ge 1 ] && [ "$n_nodes" -le 250 ] || fail "expected 1 to 250 nodes, found $n_nodes"
    [ "$rate" = none ] || shape true lo "$rate" # looks at the value only
    [ -n "$cpus" ] || cpus=$(deal_cpus "$n_nodes")
    [ "$(tr -cd / <<<"$cpus" | wc -c)" -eq $((n_nodes - 1)) ] ||
        fail "--cpus: expected $n_nodes lists between slashes, found \"$cpus\""
    [ "$(id -u)" -eq 0 ] || namespaces+=(--user --map-root-user)
    { command -v ip && command -v tc; } >/dev/null || skip "no ip or tc (package iproute2)"
    # The same that follows, as an attempt.
    unshare "${namespaces[@]}" -- sh -ec '
        tc qdisc add dev lo root tbf rate 1gbit burst 131072 limit 1048576
        ip link add switch type bridge
        ip link add port type veth peer name eth0
        unshare --net --uts --ipc --mount -- sh -ec "hostname node && mount -t tmpfs tmpfs /dev/shm"' \
        >/dev/null 2>&1 || skip "this machine allows no network namespaces, or none with a limited rate"
    # unshare is deaf to SIGTERM, this shell is not; the kernel then ends unshare, and all that it holds.
    local status=0
    setpriv --pdeathsig KILL unshare "${namespaces[@]}" -- "$self" build "$n_nodes" "$rate" "$cpus" "$@" || status=$?
    exit "$status"
}

case ${1:-} in
hosts | on | rate | cut | join) inside "$@" ;;
hold | build) "$@" ;;
node*) agent "$@" ;;
'' | *[!0-9]*) usage ;;
*) outside "$@" ;;
esac
