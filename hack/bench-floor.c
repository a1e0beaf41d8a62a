/* The bare kernel work of `run` of true: what a container of the default
 * config.json (`runc spec`) takes, and nothing else.
 *
 *   bench-floor run BUNDLE ID                the whole life
 *   bench-floor exec PID CGROUP...           one more process, in the container of PID
 *
 * Nothing is parsed, checked, sealed or written down; no error is handled but
 * by ending. The same namespaces, cgroups (in each mounted hierarchy below its
 * top, or in the pure v2 view one with CLONE_INTO_CGROUP), device rules (of v2: a
 * program), mounts, nodes, masks, capabilities, and the same program. Measured beside the
 * runtimes by hack/bench, which prints its calls by `strace -c`.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOP "/sys/fs/cgroup/"
#define MUST(call) do { if ((call) < 0) { perror(#call); _exit(1); } } while (0)

static const char *const hierarchies[] = { "cpu", "cpuacct", "cpuset", "memory", "devices",
	"freezer", "blkio", "pids", "systemd" };
enum { V1 = sizeof hierarchies / sizeof *hierarchies };
static const char *const rules[] = { "b *:* m", "c *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm",
	"c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 10:200 rwm", "c 136:* rwm" };

static void put(const char *directory, const char *file, const char *text) {
	char path[512];
	snprintf(path, sizeof path, "%s/%s", directory, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	MUST(fd);
	MUST(write(fd, text, strlen(text)));
	close(fd);
}

/* The same rules as a program of v2, which the kernel checks and compiles. */
static void restrict_devices(int cgroup) {
	static const struct { int type, major, minor, access; } allowed[] = {
		{ BPF_DEVCG_DEV_BLOCK, -1, -1, BPF_DEVCG_ACC_MKNOD }, { BPF_DEVCG_DEV_CHAR, -1, -1, BPF_DEVCG_ACC_MKNOD },
		{ BPF_DEVCG_DEV_CHAR, 1, 3, 7 }, { BPF_DEVCG_DEV_CHAR, 1, 5, 7 }, { BPF_DEVCG_DEV_CHAR, 1, 7, 7 },
		{ BPF_DEVCG_DEV_CHAR, 1, 8, 7 }, { BPF_DEVCG_DEV_CHAR, 1, 9, 7 }, { BPF_DEVCG_DEV_CHAR, 5, 0, 7 },
		{ BPF_DEVCG_DEV_CHAR, 5, 1, 7 }, { BPF_DEVCG_DEV_CHAR, 5, 2, 7 }, { BPF_DEVCG_DEV_CHAR, 10, 200, 7 },
		{ BPF_DEVCG_DEV_CHAR, 136, -1, 7 } };
	struct bpf_insn code[128];
	int n = 0;
#define ADD(...) code[n++] = (struct bpf_insn){ __VA_ARGS__ }
	for (int field = 0; field < 3; field++)        /* r2 type and access, r4 major, r5 minor */
		ADD(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (int[]){ 2, 4, 5 }[field], .src_reg = 1, .off = 4 * field);
	ADD(.code = BPF_ALU | BPF_MOV | BPF_X, .dst_reg = 3, .src_reg = 2);
	ADD(.code = BPF_ALU | BPF_RSH | BPF_K, .dst_reg = 3, .imm = 16);
	ADD(.code = BPF_ALU | BPF_AND | BPF_K, .dst_reg = 2, .imm = 0xffff);
	for (unsigned r = 0; r < sizeof allowed / sizeof *allowed; r++) {
		int tests[4], count = 0;
		tests[count++] = n;
		ADD(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 2, .imm = allowed[r].type);
		if (allowed[r].access != 7) {
			ADD(.code = BPF_ALU | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 3);
			ADD(.code = BPF_ALU | BPF_AND | BPF_K, .dst_reg = 1, .imm = 7 & ~allowed[r].access);
			tests[count++] = n;
			ADD(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 1, .imm = 0);
		}
		if (allowed[r].major >= 0) {
			tests[count++] = n;
			ADD(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 4, .imm = allowed[r].major);
		}
		if (allowed[r].minor >= 0) {
			tests[count++] = n;
			ADD(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 5, .imm = allowed[r].minor);
		}
		ADD(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1);
		ADD(.code = BPF_JMP | BPF_EXIT);
		for (int t = 0; t < count; t++)
			code[tests[t]].off = n - tests[t] - 1;
	}
	ADD(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0);
	ADD(.code = BPF_JMP | BPF_EXIT);
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (unsigned long)code, .insn_cnt = n,
		.license = (unsigned long)"" };
	int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
	MUST(program);
	union bpf_attr attach = { .target_fd = cgroup, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE,
		.attach_flags = BPF_F_ALLOW_MULTI };
	MUST(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
	close(program);
}

static void enter(int pidfd, int *tasks, int count) {
	if (pidfd >= 0)
		MUST(setns(pidfd, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET));
	for (int i = 0; i < count; i++)
		MUST(write(tasks[i], "0", 1));
}

static void mounts(const char *root, int v2, const char *id) {
	char path[512], from[512];
	umask(0);
	MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	MUST(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
	MUST(chdir(root));
	mkdir("proc", 0755), mkdir("dev", 0755), mkdir("sys", 0755);
	MUST(mount("proc", "proc", "proc", 0, NULL));
	MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	MUST(mkdir("dev/pts", 0755)); MUST(mkdir("dev/shm", 0755)); MUST(mkdir("dev/mqueue", 0755));
	MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	MUST(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"));
	MUST(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
	MUST(mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
	unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME | MS_RDONLY;
	if (v2) {
		MUST(mount("cgroup", "sys/fs/cgroup", "cgroup2", flags, NULL));
	} else {
		MUST(mount("tmpfs", "sys/fs/cgroup", "tmpfs", flags & ~MS_RDONLY, "mode=755"));
		for (int i = 0; i < V1; i++) {
			snprintf(path, sizeof path, "sys/fs/cgroup/%s", hierarchies[i]);
			snprintf(from, sizeof from, TOP "%s/%s", hierarchies[i], id);
			MUST(mkdir(path, 0755));
			MUST(mount(from, path, NULL, MS_BIND | MS_REC, NULL));
			MUST(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | flags, NULL));
		}
		MUST(mount(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND | flags, NULL));
	}
	static const struct { const char *path; int major, minor; } nodes[] = {
		{ "dev/null", 1, 3 }, { "dev/zero", 1, 5 }, { "dev/full", 1, 7 },
		{ "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 } };
	for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
		MUST(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
	MUST(symlink("pts/ptmx", "dev/ptmx")); MUST(symlink("/proc/self/fd", "dev/fd"));
	MUST(symlink("/proc/self/fd/0", "dev/stdin")); MUST(symlink("/proc/self/fd/1", "dev/stdout"));
	MUST(symlink("/proc/self/fd/2", "dev/stderr"));
	umask(022);
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(chdir("/"));
	MUST(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	static const char *const readonly[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger" };
	for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++)
		if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) == 0)
			MUST(mount(NULL, readonly[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
	static const char *const masked[] = { "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
		"/sys/firmware", "/proc/scsi" };
	for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++)
		if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) != 0)
			mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL);
}

static void become(void) {
	const unsigned keep = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (cap > 31 || !(keep & 1u << cap))
			prctl(PR_CAPBSET_DROP, cap);
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0, 0, 0 } };
	MUST(syscall(SYS_setgroups, 0, NULL)); MUST(syscall(SYS_setresgid, 0, 0, 0)); MUST(syscall(SYS_setresuid, 0, 0, 0));
	MUST(syscall(SYS_capset, &header, data));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	struct rlimit files = { 1024, 1024 };
	MUST(setrlimit(RLIMIT_NOFILE, &files));
	char *words[] = { "true", NULL }, *environment[] = { "PATH=/bin", "TERM=xterm", NULL };
	MUST(execve("/bin/true", words, environment));
}

/* clone3 with what the C library does not know. */
static pid_t born(unsigned long long flags, int cgroup) {
	struct clone_args args = { .flags = flags, .exit_signal = SIGCHLD };
	if (cgroup >= 0)
		args.flags |= CLONE_INTO_CGROUP, args.cgroup = cgroup;
	pid_t pid = syscall(SYS_clone3, &args, sizeof args);
	MUST(pid);
	return pid;
}

static int reap(pid_t pid) {
	int status;
	MUST(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int run(const char *bundle, const char *id) {
	char root[512], path[512], text[64];
	int v2 = access(TOP "cgroup.procs", F_OK) == 0, tasks[V1], count = v2 ? 0 : V1, cgroup = -1;
	snprintf(root, sizeof root, "%s/rootfs", bundle);
	if (v2) {
		snprintf(path, sizeof path, TOP "%s", id);
		MUST(mkdir(path, 0755));
		MUST(cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		restrict_devices(cgroup);
	}
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, TOP "%s/%s", hierarchies[i], id);
		MUST(mkdir(path, 0755));
		if (strcmp(hierarchies[i], "cpuset") == 0) {
			static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
			for (int f = 0; f < 2; f++) {
				char above[64];
				snprintf(above, sizeof above, TOP "cpuset/%s", files[f]);
				int fd = open(above, O_RDONLY | O_CLOEXEC);
				ssize_t size = read(fd, text, sizeof text - 1);
				MUST(size);
				text[size] = 0;
				close(fd);
				put(path, files[f], text);
			}
		}
		if (strcmp(hierarchies[i], "devices") == 0) {
			put(path, "devices.deny", "a");
			strcat(path, "/devices.allow");
			int fd = open(path, O_WRONLY | O_CLOEXEC);
			for (unsigned r = 0; r < sizeof rules / sizeof *rules; r++)
				MUST(write(fd, rules[r], strlen(rules[r])));
			close(fd);
		}
		snprintf(path, sizeof path, TOP "%s/%s/tasks", hierarchies[i], id);
		MUST(tasks[i] = open(path, O_WRONLY | O_CLOEXEC));
	}
	pid_t pid = born(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | (v2 ? CLONE_NEWCGROUP : 0), cgroup);
	if (pid == 0) {
		enter(-1, tasks, count);
		setsid();
		struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		MUST(ioctl(fd, SIOCSIFFLAGS, &lo));
		close(fd);
		MUST(sethostname("runc", 4));
		mounts(root, v2, id);
		become();
	}
	int code = reap(pid);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, TOP "%s/%s", hierarchies[i], id);
		MUST(rmdir(path));
	}
	if (v2)
		MUST(rmdir(path));
	return code;
}

/* The container of `target`, whose cgroups are named. */
static int further(pid_t target, char **cgroups, int count) {
	char path[512];
	int v2 = access(TOP "cgroup.procs", F_OK) == 0, tasks[16], cgroup = -1, host, theirs, pidfd;
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/%s", cgroups[i], v2 ? "" : "tasks");
		MUST(tasks[i] = open(path, (v2 ? O_RDONLY : O_WRONLY) | O_CLOEXEC));
	}
	if (v2)
		cgroup = tasks[0];
	MUST(pidfd = syscall(SYS_pidfd_open, target, 0));
	MUST(host = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof path, "/proc/%d/ns/pid", target);
	MUST(theirs = open(path, O_RDONLY | O_CLOEXEC));
	MUST(setns(theirs, CLONE_NEWPID));
	pid_t pid = born(0, cgroup);
	if (pid == 0) {
		enter(pidfd, tasks, v2 ? 0 : count);
		setsid();
		become();
	}
	return reap(pid);
}

int main(int argc, char **argv) {
	if (argc == 4 && strcmp(argv[1], "run") == 0)
		return run(argv[2], argv[3]);
	if (argc > 3 && strcmp(argv[1], "exec") == 0)
		return further(atoi(argv[2]), argv + 3, argc - 3);
	fprintf(stderr, "usage: bench-floor run BUNDLE ID | exec PID CGROUP...\n");
	return 2;
}
