/* options.h - what all measurements are told about how to run. */
#ifndef MEASURE_OPTIONS_H
#define MEASURE_OPTIONS_H

#include "compute/device.h"

struct measure {
    const struct device *device;
    enum activations activations;
    int64_t memory;              /* bytes of hidden states to keep in memory */
};

#endif
