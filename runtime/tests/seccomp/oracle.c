/*
 * The oracle of the seccomp tests: libseccomp makes the program.
 *
 * Words on standard input, numbers in any base that strtoull takes:
 *
 *   resolve NAME                        -> one line, the number on each of
 *                                          x86_64, x86, x32, aarch64, arm
 *   filter DEFAULT                      a new filter with this default action
 *   arch TOKEN                          one more architecture
 *   rule ACTION NAME N (ARG OP A B)*N   a rule; OP is an SCMP_CMP_* number
 *   end                                 -> one line: the first error as a
 *                                          negative errno, or how many
 *                                          instructions follow, each as
 *                                          "CODE JT JF K" in hexadecimal
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t number(void)
{
	char word[64];

	if (scanf("%63s", word) != 1)
		exit(2);
	return strtoull(word, NULL, 0);
}

static void export(scmp_filter_ctx filter)
{
	struct sock_filter program[8192];
	int fd = memfd_create("program", 0);
	int failed = seccomp_export_bpf(filter, fd);

	if (failed) {
		printf("%d\n", failed);
	} else {
		ssize_t size = pread(fd, program, sizeof(program), 0);
		size_t count = size / sizeof(program[0]);

		printf("%zu", count);
		for (size_t i = 0; i < count; i++)
			printf(" %x %x %x %x", program[i].code, program[i].jt,
			       program[i].jf, program[i].k);
		printf("\n");
	}
	close(fd);
}

int main(void)
{
	static const uint32_t archs[] = { SCMP_ARCH_X86_64, SCMP_ARCH_X86,
					  SCMP_ARCH_X32, SCMP_ARCH_AARCH64,
					  SCMP_ARCH_ARM };
	scmp_filter_ctx filter = NULL;
	int failed = 0, rules = 0;
	char word[64], name[64];

	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "resolve")) {
			if (scanf("%63s", name) != 1)
				return 2;
			for (int i = 0; i < 4; i++)
				printf("%d ", seccomp_syscall_resolve_name_arch(archs[i], name));
			printf("\n");
		} else if (!strcmp(word, "filter")) {
			filter = seccomp_init(number());
			failed = filter ? 0 : -EINVAL;
			rules = 0;
		} else if (!strcmp(word, "arch")) {
			int rc = seccomp_arch_add(filter, number());

			if (rc && rc != -EEXIST && !failed)
				failed = rc;
		} else if (!strcmp(word, "rule")) {
			uint32_t action = number();
			struct scmp_arg_cmp args[6];
			int rc;
			unsigned int count;

			if (scanf("%63s", name) != 1)
				return 2;
			count = number();
			for (unsigned int i = 0; i < count && i < 6; i++) {
				args[i].arg = number();
				args[i].op = number();
				args[i].datum_a = number();
				args[i].datum_b = number();
			}
			rc = seccomp_rule_add_array(filter, action,
						    seccomp_syscall_resolve_name(name),
						    count, args);
			if (rc && !failed)
				failed = rc;
			rules++;
		} else if (!strcmp(word, "end")) {
			/*
			 * The binary search, as runc asks for it. Without it,
			 * 2.5.4 forgets to load the syscall number if the
			 * first syscall doesn't exist on an architecture; with
			 * it, it gets filters without rules wrong.
			 */
			if (rules && !failed)
				failed = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
			if (failed)
				printf("%d\n", failed);
			else
				export(filter);
			seccomp_release(filter);
			filter = NULL;
		} else {
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
