/* The commands of the exam, as one module for WASI. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copy(int from, int counting)
{
	static char piece[65536];
	ssize_t size, all = 0;

	while ((size = read(from, piece, sizeof piece)) > 0) {
		all += size;
		if (!counting && write(1, piece, size) != size)
			return 1;
	}
	return counting ? printf("%zd\n", all) < 0 : size != 0;
}

static int forever(const char *line)
{
	for (;;) {
		if (line)
			puts(line);
		fflush(stdout);
		usleep(50000);
	}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "", *word = argc > 2 ? argv[2] : "";
	FILE *file;

	if (!strcmp(verb, "print"))
		return puts(word) < 0;
	if (!strcmp(verb, "complain"))
		return fprintf(stderr, "%s\n", word) < 0;
	if (!strcmp(verb, "fail"))
		return atoi(word);
	if (!strcmp(verb, "sleep"))
		return forever(NULL);
	if (!strcmp(verb, "tick"))
		return forever(word);
	if (!strcmp(verb, "cat"))
		return copy(0, 0);
	if (!strcmp(verb, "count"))
		return copy(0, 1);
	if (!strcmp(verb, "variable"))
		return puts(getenv(word) ? getenv(word) : "") < 0;
	if (!strcmp(verb, "much")) {
		for (int i = atoi(word); i > 0; i--)
			putchar('x');
		return putchar('\n') < 0;
	}
	if (!strcmp(verb, "later")) {
		puts(word);
		fflush(stdout);
		sleep(2);
		puts(argv[3]);
		return atoi(argv[4]);
	}
	if (!strcmp(verb, "after")) {
		puts("waiting");
		fflush(stdout);
		while (access(word, F_OK))
			usleep(50000);
		verb = "read";
		word = argv[3];
	}
	if (!strcmp(verb, "read"))
		return (file = fopen(word, "r")) ? copy(fileno(file), 0) : 1;
	if (!strcmp(verb, "write"))
		return (file = fopen(word, "w")) && fputs("written\n", file) >= 0 && !fclose(file) ? 0 : 1;
	return 99;
}
