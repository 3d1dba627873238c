/* windows.c - cuts tokens into windows; adds up what was said of them. */
#include "measure/windows.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

static void add(struct windows *windows, const struct window *window)
{
    windows->window = xreallocarray(windows->window, (size_t)windows->count + 1, sizeof *windows->window);
    windows->window[windows->count++] = *window;
    windows->scored += window->n - window->from;
    windows->fed += window->n - 1;
}

void windows_cut(struct windows *windows, const int32_t *token, int64_t n, int64_t context, int64_t stride)
{
    int64_t end = 0;             /* of the window before */

    *windows = (struct windows){0};
    for (int64_t first = 0; end < n; first += stride) {
        int64_t last = first + context < n ? first + context : n;
        int64_t from = end - first > 1 ? end - first : 1;

        if (windows->count && stride == context && last - first < context)
            break;
        add(windows, &(struct window){token + first, last - first, from, first, windows->count, false});
        end = last;
    }
    windows->groups = windows->count;
}

void windows_roll(struct windows *windows, const int32_t *token, int64_t n, int64_t context)
{
    for (int64_t end = 1; end < n;) {
        int64_t next = end + context < n ? end + context : n;
        int64_t first = next - 1 - context > 0 ? next - 1 - context : 0;

        add(windows, &(struct window){token + first, next - first, end - first, first - 1, windows->groups, true});
        end = next;
    }
    windows->groups++;
}

void windows_free(struct windows *windows)
{
    free(windows->window);
    *windows = (struct windows){0};
}

void sums_begin(struct sums *sums, int64_t groups)
{
    sums->groups = groups;
    sums->sum = xcalloc((size_t)groups, sizeof *sums->sum);
    sums->count = xcalloc((size_t)groups, sizeof *sums->count);
}

void sums_free(struct sums *sums)
{
    free(sums->sum);
    free(sums->count);
    *sums = (struct sums){0};
}

int64_t sums_count(const struct sums *sums)
{
    int64_t count = 0;

    for (int64_t g = 0; g < sums->groups; g++)
        count += sums->count[g];
    return count;
}

double sums_mean(const struct sums *sums)
{
    double sum = 0;

    for (int64_t g = 0; g < sums->groups; g++)
        sum += sums->sum[g];
    return sum / (double)sums_count(sums);
}

double sums_error(const struct sums *sums)
{
    double mean = sums_mean(sums), squares = 0, groups = (double)sums->groups;

    if (sums->groups < 2)
        return NAN;
    for (int64_t g = 0; g < sums->groups; g++)
        squares += pow(sums->sum[g] - mean * (double)sums->count[g], 2);
    return sqrt(groups / (groups - 1) * squares) / (double)sums_count(sums);
}

char *error_text(double error)
{
    return isfinite(error) ? xasprintf(" +- %.4f", error) : xstrdup("");
}
