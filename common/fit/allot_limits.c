/* allot_limits.c - budgets, floors and ceilings. */
#include "fit/allot.h"
#include "fit/plan.h"

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

/* The number that a setting's words begin with, or infinity for "full" and "row"; false where there is none. */
static bool read_value(const char *text, double *value)
{
    size_t length = strcspn(text, " ");
    char *end;

    *value = INFINITY;
    if ((length == 4 && !strncmp(text, "full", length)) || (length == 3 && !strncmp(text, "row", length)))
        return true;
    *value = strtod(text, &end);
    return length && end == text + length && isfinite(*value);
}

/* KEY=VALUE */
static bool parse_key(char *text, struct allot_rule *rule)
{
    char *value = strchr(text, '=');

    *value++ = '\0';
    rule->key = text;
    return plan_is_ordered(text, &rule->absent) && read_value(value, &rule->value)
        && !(isinf(rule->value) && plan_set(&(struct plan_line){0}, text, value));
}

bool allot_rule_parse(const char *text, bool ceiling, struct allot_rule *rule)
{
    const char *glob = strchr(text, '=');
    struct allot_budget budget;

    *rule = (struct allot_rule){.ceiling = ceiling};
    if (!glob || glob == text)
        return false;
    if (strchr(glob + 1, '=')) {
        if (!parse_key(xstrdup(glob + 1), rule)) {
            allot_rule_free(rule);
            return false;
        }
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

/* What a plan gives the rule's key. */
static double key_value(const char *plan, const struct allot_rule *rule)
{
    size_t length = strlen(rule->key);

    for (const char *word = plan; *word; word += strspn(word, " ")) {
        double value;

        if (!strncmp(word, rule->key, length) && word[length] == '=')
            return read_value(word + length + 1, &value) ? value : NAN;
        word += strcspn(word, " ");
    }
    return rule->absent;
}

static bool rule_allows(const struct allot_rule *rule, const struct curve *curve, const struct curve_point *point)
{
    double value, original = (double)curve->original;

    if (!*point->plan && (rule->key || !rule->ceiling))
        return !rule->ceiling;
    if (rule->key)
        value = key_value(point->plan, rule);
    else
        value = rule->unit == ALLOT_BPW ? 8 * (double)point->bytes / original
                                        : 100 * (double)point->parameters / original;
    return isnan(value) || (rule->ceiling ? value <= rule->value : value >= rule->value);
}

bool allot_allows(const struct allot_rule *rule, int n, const struct curve *curve, const struct curve_point *point)
{
    for (int i = 0; i < n; i++)
        if (!fnmatch(rule[i].glob, curve->name, 0) && !rule_allows(&rule[i], curve, point))
            return false;
    return true;
}
