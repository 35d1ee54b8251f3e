// Tells torch for CPUs that there is a device of type CUDA, so that tensors may say they lie there and autograd goes
// along. Nothing is computed here: see device.py. It must be loaded before torch is, which asks only once.

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {

// One device, one stream, and events that have always happened: what autograd synchronises with.
struct SimulatedGuard final : NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device device() {
    return Device(DeviceType::CUDA, 0);
  }
  static Stream stream() {
    return Stream(Stream::DEFAULT, device());
  }
  Device getDevice() const override {
    return device();
  }
  Device exchangeDevice(Device) const override {
    return device();
  }
  Stream getStream(Device) const noexcept override {
    return stream();
  }
  Stream getNewStream(Device, int) const override {
    return stream();
  }
  Stream exchangeStream(Stream) const noexcept override {
    return stream();
  }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, SimulatedGuard)

} // namespace c10::impl

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  int getNumGPUs() const override {
    return 1;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  DeviceIndex current_device() const override {
    return 0;
  }
  DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return GetCPUAllocator();
  }
  bool isPinnedPtr(const void*) const override {
    return false;
  }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

} // namespace at
