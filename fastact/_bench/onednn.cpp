// BatchNorm + ReLU of oneDNN, training, all buffers allocated once: what fastact/_bench/onednn.py times.
//
//   onednn N C H W nchw|nhwc|blocked INPUT OUTPUT
//
// INPUT holds x, dy, weight and bias (float32, x and dy in the order N C H W or N H W C); y, dx and the
// gradients of weight and bias go to OUTPUT.  Then each line "forward K" or "backward K" of the standard
// input is answered by the seconds that one of K calls in a row takes.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <unordered_map>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

using dnnl::memory;
using tag = memory::format_tag;

static const dnnl::normalization_flags flags = dnnl::normalization_flags::use_scale
    | dnnl::normalization_flags::use_shift | dnnl::normalization_flags::fuse_norm_relu;

struct BatchNorm {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    memory::dims shape;
    tag plain;
    memory x, y, dy, dx, mean, variance, weight, bias, dweight, dbias, workspace;
    dnnl::batch_normalization_forward forward;
    dnnl::batch_normalization_backward backward;

    BatchNorm(memory::dims shape, tag plain, tag inside) : shape(shape), plain(plain)
    {
        auto data = memory::desc(shape, memory::data_type::f32, inside);
        auto channel = memory::desc({shape[1]}, memory::data_type::f32, tag::a);
        dnnl::batch_normalization_forward::primitive_desc there(
            engine, dnnl::prop_kind::forward_training, data, data, 1e-5f, flags);
        dnnl::batch_normalization_backward::primitive_desc back(
            engine, dnnl::prop_kind::backward, data, data, data, 1e-5f, flags, there);
        for (memory *m : {&x, &y, &dy, &dx})
            *m = memory(data, engine);
        for (memory *m : {&mean, &variance, &weight, &bias, &dweight, &dbias})
            *m = memory(channel, engine);
        workspace = memory(there.workspace_desc(), engine);
        forward = dnnl::batch_normalization_forward(there);
        backward = dnnl::batch_normalization_backward(back);
    }

    void run_forward()
    {
        forward.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}, {DNNL_ARG_SCALE, weight},
                                 {DNNL_ARG_SHIFT, bias}, {DNNL_ARG_MEAN, mean},
                                 {DNNL_ARG_VARIANCE, variance}, {DNNL_ARG_WORKSPACE, workspace}});
        stream.wait();
    }

    void run_backward()
    {
        backward.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dx},
                                  {DNNL_ARG_SCALE, weight}, {DNNL_ARG_MEAN, mean},
                                  {DNNL_ARG_VARIANCE, variance}, {DNNL_ARG_DIFF_SCALE, dweight},
                                  {DNNL_ARG_DIFF_SHIFT, dbias}, {DNNL_ARG_WORKSPACE, workspace}});
        stream.wait();
    }

    // An array in its plain order, to or from memory in the order inside.
    void read(std::ifstream &file, memory &to)
    {
        memory from(memory::desc(shape, memory::data_type::f32, plain), engine);
        file.read((char *)from.get_data_handle(), from.get_desc().get_size());
        dnnl::reorder(from, to).execute(stream, from, to);
        stream.wait();
    }

    void write(std::ofstream &file, memory &from)
    {
        memory to(memory::desc(shape, memory::data_type::f32, plain), engine);
        dnnl::reorder(from, to).execute(stream, from, to);
        stream.wait();
        file.write((char *)to.get_data_handle(), to.get_desc().get_size());
    }
};

static double seconds(BatchNorm &norm, bool forward, long repeats)
{
    auto begin = std::chrono::steady_clock::now();
    for (long k = 0; k < repeats; k++)
        forward ? norm.run_forward() : norm.run_backward();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repeats;
}

// The layout in blocks of as many channels as its vectors have: for another one it has no JIT.
static tag blocked()
{
    const auto avx512 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
    const auto here = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    return (here & avx512) == avx512 ? tag::nChw16c : tag::nChw8c;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    std::string layout = argv[5];
    memory::dims shape;
    for (int k = 1; k < 5; k++)
        shape.push_back(std::stol(argv[k]));
    tag plain = layout == "nhwc" ? tag::nhwc : tag::nchw;
    BatchNorm norm(shape, plain, layout == "blocked" ? blocked() : plain);
    std::ifstream input(argv[6], std::ios::binary);
    norm.read(input, norm.x);
    norm.read(input, norm.dy);
    for (memory *m : {&norm.weight, &norm.bias})
        input.read((char *)m->get_data_handle(), m->get_desc().get_size());
    norm.run_forward();
    norm.run_backward();
    std::ofstream output(argv[7], std::ios::binary);
    norm.write(output, norm.y);
    norm.write(output, norm.dx);
    for (memory *m : {&norm.dweight, &norm.dbias})
        output.write((char *)m->get_data_handle(), m->get_desc().get_size());
    output.close();
    std::cout << "ready" << std::endl;
    std::string what;
    for (long repeats; std::cin >> what >> repeats;)
        std::cout << seconds(norm, what == "forward", repeats) << std::endl;
}
