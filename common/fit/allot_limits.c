/* allot_limits.c - budgets, floors and ceilings. */
#include "fit/allot.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *suffix;
    enum allot_unit unit;
    double factor;
} units[] = {
    {"bpw", ALLOT_BPW, 1}, {"%", ALLOT_PART, 1}, {"B", ALLOT_BYTES, 1}, {"KB", ALLOT_BYTES, 1e3},
    {"MB", ALLOT_BYTES, 1e6}, {"GB", ALLOT_BYTES, 1e9}, {"KiB", ALLOT_BYTES, 0x1p10}, {"MiB", ALLOT_BYTES, 0x1p20},
    {"GiB", ALLOT_BYTES, 0x1p30},
};

bool allot_budget_parse(const char *text, struct allot_budget *budget)
{
    char *suffix;
    double amount = strtod(text, &suffix);

    if (suffix == text || strchr("+- \t\n", *text) || !isfinite(amount) || amount < 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcmp(suffix, units[i].suffix)) {
            budget->unit = units[i].unit;
            budget->amount = amount * units[i].factor;
            return true;
        }
    return false;
}

static bool is_key(const char *text, size_t length)
{
    return length && strspn(text, "abcdefghijklmnopqrstuvwxyz_-") >= length;
}

bool allot_rule_parse(const char *text, bool ceiling, struct allot_rule *rule)
{
    const char *glob = strchr(text, '='), *value = glob ? strchr(glob + 1, '=') : NULL;
    struct allot_budget budget;
    char *end = NULL;

    *rule = (struct allot_rule){.ceiling = ceiling};
    if (!glob || glob == text)
        return false;
    if (value) {
        rule->value = strtod(value + 1, &end);
        if (end == value + 1 || *end || !isfinite(rule->value) || !is_key(glob + 1, (size_t)(value - glob - 1)))
            return false;
        rule->key = xstrndup(glob + 1, (size_t)(value - glob - 1));
    } else if (allot_budget_parse(glob + 1, &budget) && budget.unit != ALLOT_BYTES) {
        rule->unit = budget.unit;
        rule->value = budget.amount;
    } else {
        return false;
    }
    rule->glob = xstrndup(text, (size_t)(glob - text));
    return true;
}

void allot_rule_free(struct allot_rule *rule)
{
    free(rule->glob);
    free(rule->key);
    *rule = (struct allot_rule){0};
}

/* The numeric value of a key in a plan; false where it isn't there. */
static bool key_value(const char *plan, const char *key, double *value)
{
    size_t length = strlen(key);

    for (const char *word = plan; *word; word += strspn(word, " ")) {
        char *end;

        if (!strncmp(word, key, length) && word[length] == '=') {
            *value = strtod(word + length + 1, &end);
            return end != word + length + 1 && (!*end || *end == ' ');
        }
        word += strcspn(word, " ");
    }
    return false;
}

static bool rule_allows(const struct allot_rule *rule, const struct curve *curve, const struct curve_point *point)
{
    double value, original = (double)curve->original;

    if (!*point->plan && (rule->key || !rule->ceiling))
        return !rule->ceiling;
    if (!rule->key)
        value = rule->unit == ALLOT_BPW ? 8 * (double)point->bytes / original
                                        : 100 * (double)point->parameters / original;
    else if (!key_value(point->plan, rule->key, &value))
        return true;
    return rule->ceiling ? value <= rule->value : value >= rule->value;
}

bool allot_allows(const struct allot_rule *rule, int n, const struct curve *curve, const struct curve_point *point)
{
    for (int i = 0; i < n; i++)
        if (!fnmatch(rule[i].glob, curve->name, 0) && !rule_allows(&rule[i], curve, point))
            return false;
    return true;
}
