#!/usr/bin/env bash
# Builds the image of launch/Containerfile, runs it, and plays Kubernetes' MPI Operator with it: the pods
# of launch/mpijob.yaml as containers with a network of their own.
#
#   tests/container.sh [--base IMAGE] [--image IMAGE] [-- FLAG...]
#
#   --base IMAGE    what the image is built on (default: launch/Containerfile's)
#   --image IMAGE   takes this one, which launch/Containerfile made, in place of building
#   FLAG...         for podman build: --network=host, --volume=/etc/apt/apt.conf:/etc/apt/apt.conf:ro ...
#
# Needs podman or docker (CHOIR_CONTAINER names one) and Python with PyYAML; skips with a message and
# status 77 where there is none. Not part of ctest: it installs packages into the image.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
manifest=$root/launch/mpijob.yaml

skip() {
    echo "container: skipped: $*" >&2
    exit 77
}

base=
image=
while [ $# -gt 0 ]; do
    case "$1" in
    --base) base=${2:?} && shift 2 ;;
    --image) image=${2:?} && shift 2 ;;
    --) shift && break ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
done

tool=${CHOIR_CONTAINER:-$(command -v podman || command -v docker || true)}
[ -n "$tool" ] || skip "there is neither podman nor docker"
"$tool" info >/dev/null 2>&1 || skip "$tool info fails"
python3 -c 'import yaml' 2>/dev/null || skip "Python has no yaml (Debian: python3-yaml)"

work=$(mktemp -d)
name=choir-test-$$
failures=0

clean_up() {
    local container
    for container in launcher worker-0 worker-1; do
        "$tool" rm -f "$name-$container"
    done
    "$tool" network rm "$name"
    rm -rf "$work"
} >/dev/null 2>&1
trap clean_up EXIT
: >"$work/out"

complain() {
    echo "FAILED: $*" >&2
    tail -n 20 "$work/out" | sed 's/^/    /' >&2
    failures=$((failures + 1))
}

# answers COMMAND...: it ends well, and says what one rank said. Output and messages are taken together:
# Open MPI 5.0 may forward the beginning of a rank's output as messages.
answers() {
    "$@" --quiet >"$work/out" 2>&1 || complain "status $?: $*"
    grep -qxF "$(cat "$work/hello")" "$work/out" || complain "expected \"$(cat "$work/hello")\": $*"
}

# ---- The image ------------------------------------------------------------------------------------

if [ -z "$image" ]; then
    image=$name
    echo "== $tool build -f launch/Containerfile ${base:+(on $base)}"
    if ! "$tool" build ${base:+--build-arg "BASE=$base"} "$@" -t "$image" -f "$root/launch/Containerfile" "$root" \
        >"$work/out" 2>&1; then
        complain "the image is not built"
        exit 1
    fi
    trap 'clean_up; "$tool" rmi "$image" >/dev/null 2>&1' EXIT
fi

# run COMMAND...: in a container of its own
run() {
    "$tool" run --rm "$image" "$@"
}

echo "== containers"
"$tool" image inspect -f '{{.Size}} bytes' "$image"
hello=(generate --chat --prompt "Hello")
run choir "${hello[@]}" --quiet >"$work/hello" 2>"$work/out" || complain "no answer on one rank"
[ -s "$work/hello" ] || complain "an empty answer"
answers run choir-run --ranks 2 -- "${hello[@]}"
run choir-run --ranks 2 -- doctor >"$work/out" 2>&1 || complain "choir doctor"

# ---- The pods of an MPIJob --------------------------------------------------------------------------

# of_manifest EXPRESSION: words of the manifest, a NUL after each; spec is its replicas, and container
# gives their only container
of_manifest() {
    python3 - "$manifest" "$1" <<'PYTHON'
import sys, yaml
spec = yaml.safe_load(open(sys.argv[1]))["spec"]["mpiReplicaSpecs"]
container = {name: spec[name]["template"]["spec"]["containers"][0] for name in spec}
for word in eval(sys.argv[2]):
    print(word, end="\0")
PYTHON
}

mapfile -d '' launcher < <(of_manifest 'container["Launcher"]["command"] + container["Launcher"]["args"]')
mapfile -d '' worker < <(of_manifest 'container["Worker"]["command"]')
mapfile -d '' capabilities < <(of_manifest 'container["Worker"]["securityContext"]["capabilities"]["add"]')
[ ${#launcher[@]} -gt 0 ] && [ ${#worker[@]} -gt 0 ] || complain "no commands in $manifest"
launcher=("${launcher[@]/#\/models\/MODEL/\/models\/demo}")

# Keys as a volume of a secret has them: links to files of mode 0600, in a folder that all may write.
"$tool" run --rm -v "$work:/work" "$image" sh -c '
    mkdir -p /work/ssh/..1 && cd /work/ssh && chmod 1777 . && ln -s ..1 ..data &&
    ssh-keygen -q -t ecdsa -b 521 -m PEM -N "" -C "" -f ..1/id_rsa && cp ..1/id_rsa.pub ..1/authorized_keys &&
    chmod 600 ..1/* && for key in id_rsa id_rsa.pub authorized_keys; do ln -s ..data/$key $key; done'
mkdir "$work/mpi"
printf 'choir-worker-%d.choir.default.svc slots=1\n' 0 1 >"$work/mpi/hostfile"
"$tool" network create "$name" >/dev/null

# What every runtime of Kubernetes gives a container; docker and podman give more.
few=(--cap-drop=ALL)
for capability in CHOWN DAC_OVERRIDE FSETID FOWNER SETGID SETUID SETPCAP NET_BIND_SERVICE KILL; do
    few+=("--cap-add=$capability")
done

# start_worker INDEX [SECONDS]: one whose sshd is so late
start_worker() {
    "$tool" run -d --name "$name-worker-$1" --network "$name" --hostname "choir-worker-$1" --cpus 1 \
        "${few[@]}" "${capabilities[@]/#/--cap-add=}" -e K_MPI_JOB_ROLE=worker \
        -v "$work/ssh:/root/.ssh:ro" -v "$root/configs/demo:/models/demo:ro" \
        "$image" sh -c "sleep ${2:-0}; exec \"\$@\"" sh "${worker[@]}" >/dev/null
}

# address INDEX: of a worker
address() {
    "$tool" inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$name-worker-$1"
}

# launch COMMAND...: in the launcher's container, with what the operator gives it; names are known of
# workers that run
launch() {
    local index known=() ip
    for index in 0 1; do
        ip=$(address "$index" 2>/dev/null || true)
        [ -z "$ip" ] || known+=(--add-host "choir-worker-$index.choir.default.svc:$ip")
    done
    timeout "${CHOIR_TEST_SECONDS:-300}" "$tool" run --rm --name "$name-launcher" --network "$name" \
        --hostname choir-launcher --cpus 1 --memory 1g "${few[@]}" ${known[@]+"${known[@]}"} -e K_MPI_JOB_ROLE=launcher \
        -e OMPI_MCA_orte_keep_fqdn_hostnames=true -e OMPI_MCA_orte_default_hostfile=/etc/mpi/hostfile \
        -e OMPI_MCA_plm_rsh_args='-o ConnectionAttempts=10' -e OMPI_MCA_orte_set_default_slots=1 \
        -v "$work/ssh:/root/.ssh:ro" -v "$work/mpi:/etc/mpi:ro" "$image" "$@"
}

echo "== launch/mpijob.yaml: ${launcher[*]}"
start_worker 0
if launch "${launcher[@]}" >"$work/out" 2>&1; then
    complain "expected another status than 0 without a second worker"
elif ! grep -q 'resolve.*choir-worker-1' "$work/out"; then
    complain "expected a message that names the missing worker"
fi
start_worker 1 3
answers launch "${launcher[@]}"
answers launch "${launcher[@]}"

echo "$failures failed"
[ "$failures" -eq 0 ]
