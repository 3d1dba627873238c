/* device.c - the devices there are. */
#include "compute/device.h"
#include "base/memory.h"

#include <string.h>

static const struct device *const devices[] = {&device_cpu, &device_reference};

const char *const device_names[] = {"cpu", "reference", NULL};
const char *const product_names[] = {"f32", "bf16", NULL};

const struct device *device_find(const char *name)
{
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (!strcmp(devices[i]->name, name))
            return devices[i];
    return NULL;
}

int device_choose(const char *name, const struct device **device)
{
    struct text names = {0};
    int rc;

    if ((*device = device_find(name)))
        return EX_OK;
    for (int i = 0; device_names[i]; i++)
        text_format(&names, "%s%s", i ? ", " : "", device_names[i]);
    rc = fail(EX_UNAVAILABLE, "--device: there is no '%s' here; there are %s", name, names.data);
    text_free(&names);
    return rc;
}
